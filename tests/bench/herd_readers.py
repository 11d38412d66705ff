#!/usr/bin/env python3
"""Many readers of one part of a file, each through one of several mounts, all at once: each reads a piece of its own.

usage: herd_readers.py --like FILE --offset N --length N --readers N --started FILE MOUNTED_FILE...

Makes FILE when they begin, and prints how many seconds the slowest took. What is read must be the bytes of --like.
"""

import argparse
import os
import random
import sys
import threading
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--like", required=True)
    parser.add_argument("--offset", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--readers", type=int, required=True)
    parser.add_argument("--started", required=True)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()

    like = os.open(args.like, os.O_RDONLY)
    piece = args.length // args.readers
    barrier = threading.Barrier(args.readers * len(args.files), action=lambda: open(args.started, "w").close())
    slowest, failures = [], []

    def read(file, offset):
        barrier.wait()
        started = time.perf_counter()
        try:
            got = os.pread(file, piece, offset)
        except OSError as error:
            failures.append(f"{error} at {offset}")
            return
        slowest.append(time.perf_counter() - started)
        if got != os.pread(like, piece, offset):
            failures.append(f"wrong bytes at {offset}")

    threading.stack_size(256 << 10)
    threads = []
    for name in args.files:
        file = os.open(name, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        threads += [threading.Thread(target=read, args=(file, args.offset + reader * piece))
                    for reader in range(args.readers)]
    random.Random(1).shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"{len(failures)} of {len(threads)} reads failed, the first: {failures[0]}")
    print(f"{max(slowest):.3f}")


if __name__ == "__main__":
    main()
