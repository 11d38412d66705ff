#!/usr/bin/python3
"""Downloads a torrent with python3-libtorrent as it is, from one peer, and prints the SHA-256 of its file.

usage: plain_client.py TORRENT_FILE DIRECTORY FROM_ADDRESS ADDRESS PORT
"""

import hashlib
import pathlib
import sys
import time

import libtorrent as lt

TIMEOUT_S = 60


def main():
    torrent, directory, own, address, port = sys.argv[1:6]
    session = lt.session({
        "listen_interfaces": f"{own}:0", "outgoing_interfaces": own, "enable_dht": False, "enable_lsd": False,
        "enable_upnp": False, "enable_natpmp": False, "enable_outgoing_utp": False, "min_reconnect_time": 1})
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = directory
    handle = session.add_torrent(params)
    end = time.monotonic() + TIMEOUT_S
    while not handle.status().is_seeding:
        if time.monotonic() > end:
            print(f"not complete: {handle.status().num_pieces} pieces, {handle.status().errc.message()}",
                  file=sys.stderr)
            return 1
        handle.connect_peer((address, int(port)))
        time.sleep(0.2)
    name = params.ti.name()
    del session
    print(hashlib.sha256(pathlib.Path(directory, name).read_bytes()).hexdigest())
    return 0


if __name__ == "__main__":
    sys.exit(main())
