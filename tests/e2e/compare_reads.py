#!/usr/bin/env python3
"""Reads files of a mount and holds every byte against the tree that the image was made from.

usage: compare_reads.py TREE MOUNT [--reads N] [--length BYTES] [--seed N] [--errors allowed|forbidden]

Without --reads, each file is read whole, in an order drawn from the seed. With it, that many ranges of
--length are read at random places, past the page cache of the mount.
Prints "right N, errors N, wrong N". Exits with 1 if a byte was wrong, 3 if a read failed and must not.
"""

import argparse
import collections
import os
import random
import sys


def whole_files(names, rng):
    rng.shuffle(names)
    return ((name, 0, None) for name in names)


def random_ranges(tree, names, rng, count, length):
    names = [name for name in names if os.path.getsize(os.path.join(tree, name)) > 0]
    for _ in range(count):
        name = rng.choice(names)
        yield name, rng.randrange(os.path.getsize(os.path.join(tree, name))), length


def read(path, offset, length, uncached):
    fd = os.open(path, os.O_RDONLY)
    try:
        if uncached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(fd).st_size
        end = size if length is None else min(size, offset + length)
        pieces = []
        while offset < end:
            piece = os.pread(fd, min(end - offset, 1 << 20), offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def regular_files(tree):
    for folder, _, names in os.walk(tree):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, tree)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tree")
    parser.add_argument("mount")
    parser.add_argument("--reads", type=int)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--errors", choices=["allowed", "forbidden"], default="forbidden")
    args = parser.parse_args()

    rng = random.Random(args.seed)
    names = sorted(regular_files(args.tree))
    plan = (whole_files(names, rng) if args.reads is None else
            random_ranges(args.tree, names, rng, args.reads, args.length))
    count = collections.Counter()
    for name, offset, length in plan:
        expected = read(os.path.join(args.tree, name), offset, length, uncached=False)
        try:
            got = read(os.path.join(args.mount, name), offset, length, uncached=True)
        except OSError as error:
            count["errors"] += 1
            print(f"{name} at {offset}: {error.strerror}", file=sys.stderr)
            continue
        count["right" if got == expected else "wrong"] += 1
        if got != expected:
            what = "zeros" if not any(got) else "other bytes"
            print(f"{name} at {offset}: {len(got)} of {len(expected)} bytes, {what}", file=sys.stderr)
    print(f"right {count['right']}, errors {count['errors']}, wrong {count['wrong']}")
    if count["wrong"]:
        return 1
    return 3 if count["errors"] and args.errors == "forbidden" else 0


if __name__ == "__main__":
    sys.exit(main())
