#!/usr/bin/env python3
"""Times reads of absent chunks through a mount beside a program that GETs as much from an HTTP server over a connection
that stays open, hashes and writes it. Each read is of another chunk, in random order; the two take turns.

usage: peer_reads.py --mounted FILE --like FILE --server HOST:PORT --path PATH --out FILE --count N --seed N

Prints a line with the two medians, in seconds. What is read must be the bytes of --like.
"""

import argparse
import hashlib
import os
import random
import socket
import statistics
import sys
import time

CHUNK_BYTES = 256 << 10


class Getter:
    def __init__(self, server, path, out):
        host, port = server.rsplit(":", 1)
        self.connection = socket.create_connection((host, int(port)))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"GET {path} HTTP/1.1\r\nHost: {server}\r\nRange: bytes=%d-%d\r\n\r\n"
        self.buffer = bytearray(CHUNK_BYTES + 4096)
        self.out = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def get(self, offset):
        self.connection.sendall((self.request % (offset, offset + CHUNK_BYTES - 1)).encode())
        view, filled, head = memoryview(self.buffer), 0, -1
        while head < 0 or filled < head + CHUNK_BYTES:
            received = self.connection.recv_into(view[filled:])
            if received == 0:
                sys.exit("the server closed the connection")
            filled += received
            if head < 0:
                head = self.buffer.find(b"\r\n\r\n", 0, filled) + 4 if b"\r\n\r\n" in self.buffer[:filled] else -1
        if not self.buffer.startswith(b"HTTP/1.1 206"):
            sys.exit(f"the server answered {bytes(self.buffer[:60])}")
        body = view[head:head + CHUNK_BYTES]
        hashlib.sha256(body).digest()
        os.pwrite(self.out, body, offset)
        return body


def main():
    parser = argparse.ArgumentParser()
    for name in ("mounted", "like", "server", "path", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()

    mounted, like = os.open(args.mounted, os.O_RDONLY), os.open(args.like, os.O_RDONLY)
    os.posix_fadvise(mounted, 0, 0, os.POSIX_FADV_RANDOM)
    getter = Getter(args.server, args.path, args.out)
    order = list(range(os.fstat(like).st_size // CHUNK_BYTES))
    random.Random(args.seed).shuffle(order)
    buffer = bytearray(CHUNK_BYTES)

    def read(offset):
        if os.preadv(mounted, [buffer], offset) != CHUNK_BYTES:
            sys.exit(f"a short read at {offset}")
        return buffer

    seconds = {read: [], getter.get: []}
    for turn, chunk in enumerate(order[:args.count]):
        offset = chunk * CHUNK_BYTES
        right = os.pread(like, CHUNK_BYTES, offset)
        for way in (read, getter.get) if turn % 2 else (getter.get, read):
            started = time.perf_counter()
            got = way(offset)
            seconds[way].append(time.perf_counter() - started)
            if got != right:
                sys.exit(f"wrong bytes at {offset}")
    print(*(f"{statistics.median(series):.6f}" for series in seconds.values()))


if __name__ == "__main__":
    main()
