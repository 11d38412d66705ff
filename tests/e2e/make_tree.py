#!/usr/bin/env python3
"""Makes a directory like a small root file system, the same for the same arguments.

usage: make_tree.py DIR --bytes N [--files N] [--seed N] [--hex]

Contents don't compress, but with --hex to a little more than half, and have no block of zeros, so that zeros in a reader's hands are always wrong.
"""

import argparse
import os
import random

TIME = 1700000000


def write_file(path, size, rng, as_hex):
    with open(path, "wb") as out:
        while size > 0:
            piece = min(size, 1 << 20)
            out.write((rng.randbytes(piece // 2 + 1).hex().encode() if as_hex else rng.randbytes(piece))[:piece])
            size -= piece


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hex", action="store_true")
    args = parser.parse_args()

    rng = random.Random(args.seed)
    weights = [rng.paretovariate(1.2) for _ in range(args.files)]
    unit = args.bytes / sum(weights)
    for i, weight in enumerate(weights):
        folder = os.path.join(args.dir, f"usr/lib{i % 7}/part{i % 31}")
        os.makedirs(folder, exist_ok=True)
        write_file(os.path.join(folder, f"file{i}"), max(1, int(weight * unit)), rng, args.hex)

    os.makedirs(os.path.join(args.dir, "etc"), exist_ok=True)
    first = os.path.join(args.dir, "usr/lib0/part0/file0")
    os.link(first, os.path.join(args.dir, "etc/hard-link"))
    os.symlink("../usr/lib0/part0/file0", os.path.join(args.dir, "etc/symbolic-link"))
    open(os.path.join(args.dir, "etc/empty"), "wb").close()
    os.chmod(first, 0o4755)
    for folder, _, names in os.walk(args.dir, topdown=False):
        for name in names:
            os.utime(os.path.join(folder, name), (TIME, TIME), follow_symlinks=False)
        os.utime(folder, (TIME, TIME))


if __name__ == "__main__":
    main()
