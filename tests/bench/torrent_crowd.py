#!/usr/bin/env python3
"""One peer of a crowd of plain libtorrent clients, tuned for it: every peer connected to every other, nobody choked.

usage: torrent_crowd.py make FILE TORRENT        a v2 torrent of the file, in pieces of 256 KiB
       torrent_crowd.py peer --torrent FILE --folder DIR --address IP --peers IP,... --go FILE [--seed]

Of two peers only one is told of the other: two that dial each other at once may both give up. A peer prints "ready",
waits until the file --go is there, connects to the peers and prints the Unix time at which it
had all, which for a seed is at once; then it serves the others until it is ended.
"""

import argparse
import os
import sys
import time

import libtorrent

PORT = 6881
PIECE_BYTES = 256 << 10


def make(path, torrent):
    files = libtorrent.file_storage()
    files.add_file(os.path.basename(path), os.path.getsize(path))
    created = libtorrent.create_torrent(files, PIECE_BYTES, libtorrent.create_torrent.v2_only)
    libtorrent.set_piece_hashes(created, os.path.dirname(path))
    with open(torrent, "wb") as out:
        out.write(libtorrent.bencode(created.generate()))


# Measured with 8 peers and not faster: super seeding, suggesting pieces, whole pieces from one peer, rarest pieces first
# from the start.
def tuned_session(address):
    return libtorrent.session({
        "listen_interfaces": f"{address}:{PORT}",
        "outgoing_interfaces": address,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "allow_multiple_connections_per_ip": False,
        "out_enc_policy": 2,
        "in_enc_policy": 2,
        "download_rate_limit": 0,
        "upload_rate_limit": 0,
        "unchoke_slots_limit": -1,
        "connection_speed": 100,
        "torrent_connect_boost": 100,
        "peer_connect_timeout": 5,
        "min_reconnect_time": 1,
        "smooth_connects": False,
        "send_buffer_watermark": 4 << 20,
        "send_buffer_watermark_factor": 150,
        "max_queued_disk_bytes": 16 << 20,
        "strict_end_game_mode": False,
        "alert_mask": 0,
    })


def peer(args):
    session = tuned_session(args.address)
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(args.torrent)
    parameters.save_path = args.folder
    parameters.flags = libtorrent.torrent_flags.update_subscribe
    if args.seed:
        parameters.flags |= libtorrent.torrent_flags.seed_mode
    torrent = session.add_torrent(parameters)
    while torrent.status().state in (libtorrent.torrent_status.checking_files,
                                     libtorrent.torrent_status.checking_resume_data):
        time.sleep(0.01)
    print("ready", flush=True)
    while not os.path.exists(args.go):
        time.sleep(0.002)
    dialled = 0
    while not torrent.status().is_seeding:
        # One that is connected is left alone; one that could not be reached is dialled again.
        if time.monotonic() - dialled > 1:
            for address in filter(None, args.peers.split(",")):
                torrent.connect_peer((address, PORT))
            dialled = time.monotonic()
        time.sleep(0.01)
    print(f"{time.time():.3f}", flush=True)
    while True:
        time.sleep(60)


def main():
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["peer"])
    parser.add_argument("--torrent", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--go", required=True)
    parser.add_argument("--seed", action="store_true")
    peer(parser.parse_args())


if __name__ == "__main__":
    main()
