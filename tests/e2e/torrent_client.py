#!/usr/bin/env python3
"""A plain BitTorrent client: downloads what a .torrent names from one peer, and exits with 0 when it has it all.

usage: torrent_client.py --torrent FILE --peer HOST:PORT --address OWN_IP --folder DIR [--seconds N]
"""

import argparse
import sys
import time

import libtorrent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torrent", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--seconds", type=float, default=90)
    args = parser.parse_args()

    session = libtorrent.session({
        "listen_interfaces": args.address + ":0",
        "outgoing_interfaces": args.address,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "alert_mask": libtorrent.alert.category_t.error_notification,
    })
    torrent = session.add_torrent({"ti": libtorrent.torrent_info(args.torrent), "save_path": args.folder})
    host, port = args.peer.rsplit(":", 1)
    torrent.connect_peer((host, int(port)))
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        status = torrent.status()
        if status.is_seeding:
            print(f"downloaded {status.total_wanted_done} bytes")
            return 0
        time.sleep(0.1)
    print(f"{torrent.status().total_wanted_done} bytes in {args.seconds} s, not all", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
