#!/usr/bin/env python3
"""Times small reads of a cold mount, each of a chunk that no other one has touched.

usage: cold_latency.py TREE MOUNT --part I/N [--reads N] [--seed N]

The places are drawn from the seed and dealt to N parts: a run for each part reads each place once. Every byte is
held against the tree. Prints the median in milliseconds; exits with 1 if a byte was wrong or a read failed.
"""

import argparse
import os
import random
import statistics
import sys
import time

STRIDE = 1 << 20
LENGTH = 4096


def places(tree):
    for folder, _, names in sorted(os.walk(tree)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            for offset in range(STRIDE // 2, os.path.getsize(path) - LENGTH, STRIDE):
                yield os.path.relpath(path, tree), offset


def read(path, offset):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, LENGTH, offset)
    finally:
        os.close(fd)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tree")
    parser.add_argument("mount")
    parser.add_argument("--part", required=True)
    parser.add_argument("--reads", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))

    everywhere = list(places(args.tree))
    random.Random(args.seed).shuffle(everywhere)
    chosen = everywhere[part::parts][: args.reads]
    if not chosen:
        sys.exit("the tree is too small")
    times = []
    for name, offset in chosen:
        started = time.monotonic()
        try:
            got = read(os.path.join(args.mount, name), offset)
        except OSError as error:
            sys.exit(f"{name} at {offset}: {error}")
        times.append(time.monotonic() - started)
        if got != read(os.path.join(args.tree, name), offset):
            sys.exit(f"{name} at {offset}: wrong bytes")
    print(f"{statistics.median(times) * 1000:.3f}")


if __name__ == "__main__":
    main()
