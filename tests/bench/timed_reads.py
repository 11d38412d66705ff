#!/usr/bin/env python3
"""Times reads of absent chunks of 256 KiB through a mount, one every so often, in random order from a part of the file.

usage: timed_reads.py --mounted FILE --like FILE --metrics URL [--first CHUNK] [--last CHUNK] [--skip N] --seed N
                      (--count N | --until FILE) [--every SECONDS]

Reads --count times, or until a process that is named in --until has ended. The order of the chunks follows from the seed;
--skip leaves out the first of them, which an earlier run has read. A read that the node did not have to fetch anything for
does not count, and the next chunk is read at once. Prints the median and the 99th percentile in seconds, and how many
counted. What is read must be the bytes of --like.
"""

import argparse
import os
import random
import sys
import time
import urllib.request

CHUNK_BYTES = 256 << 10


def fetched_reads(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines
               if line.startswith("sluice_reads_total") and 'source="local"' not in line)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    parser = argparse.ArgumentParser()
    for name in ("mounted", "like", "metrics"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1 << 30)
    parser.add_argument("--until")
    parser.add_argument("--every", type=float, default=0.5)
    args = parser.parse_args()

    mounted, like = os.open(args.mounted, os.O_RDONLY), os.open(args.like, os.O_RDONLY)
    os.posix_fadvise(mounted, 0, 0, os.POSIX_FADV_RANDOM)
    chunks = os.fstat(like).st_size // CHUNK_BYTES
    order = list(range(args.first, chunks if args.last is None else args.last))
    random.Random(args.seed).shuffle(order)
    order = order[args.skip:]

    def is_over():
        return args.until is not None and not os.path.exists(args.until)

    seconds, buffer = [], bytearray(CHUNK_BYTES)
    due = time.monotonic()
    while len(seconds) < args.count and order and not is_over():
        time.sleep(max(0, due - time.monotonic()))
        chunk = order.pop(0)
        before = fetched_reads(args.metrics)
        started = time.perf_counter()
        count = os.preadv(mounted, [buffer], chunk * CHUNK_BYTES)
        took = time.perf_counter() - started
        if count != CHUNK_BYTES or buffer != os.pread(like, CHUNK_BYTES, chunk * CHUNK_BYTES):
            sys.exit(f"wrong bytes of chunk {chunk}")
        if fetched_reads(args.metrics) == before:
            continue
        seconds.append(took)
        due += args.every
    if not seconds:
        sys.exit("no read had to be fetched")
    print(f"{percentile(seconds, 0.5):.6f} {percentile(seconds, 0.99):.6f} {len(seconds)}")


if __name__ == "__main__":
    main()
