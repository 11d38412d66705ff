#!/usr/bin/env python3
"""Replays the reads of a program: each follows the one before, after a while of work. They are runs of one, two or four
chunks of 256 KiB in a row, at places that a seed says.

usage: replay_reads.py --file FILE --like FILE --seed N --chunks N [--go FILE] [--delay SECONDS]

With --go begins when that file is there, after --delay. Prints the seconds it took. What is read must be the bytes of
--like.
"""

import argparse
import os
import random
import sys
import time

CHUNK_BYTES = 256 << 10
WORK_SECONDS = 0.005  # on average, before each read


def trace(seed, chunks, chunks_of_file):
    rng = random.Random(seed)
    starts = list(range(0, chunks_of_file - 4, 4))
    rng.shuffle(starts)
    reads = []
    for start in starts:
        for chunk in range(start, start + rng.choice((1, 2, 4))):
            reads.append((chunk, rng.expovariate(1 / WORK_SECONDS)))
            if len(reads) == chunks:
                return reads
    sys.exit("the file is too short")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", required=True)
    parser.add_argument("--like", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--chunks", type=int, required=True)
    parser.add_argument("--go")
    parser.add_argument("--delay", type=float, default=0)
    args = parser.parse_args()

    file, like = os.open(args.file, os.O_RDONLY), os.open(args.like, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    reads = trace(args.seed, args.chunks, os.fstat(like).st_size // CHUNK_BYTES)
    while args.go and not os.path.exists(args.go):
        time.sleep(0.001)
    time.sleep(args.delay)
    buffer, checked = bytearray(CHUNK_BYTES), []
    started = time.perf_counter()
    for chunk, work in reads:
        time.sleep(work)
        if os.preadv(file, [buffer], chunk * CHUNK_BYTES) != CHUNK_BYTES:
            sys.exit(f"a short read of chunk {chunk}")
        checked.append((chunk, hash(bytes(buffer))))
    took = time.perf_counter() - started
    for chunk, got in checked:
        if hash(os.pread(like, CHUNK_BYTES, chunk * CHUNK_BYTES)) != got:
            sys.exit(f"wrong bytes of chunk {chunk}")
    print(f"{took:.6f}")


if __name__ == "__main__":
    main()
