#!/usr/bin/env python3
"""Times reads of 4 KiB at places of a file that a seed says, each in another chunk of 256 KiB.

usage: random_reads.py --file FILE --like FILE --seed N --count N [--curl URL]

Prints the median in seconds and how many bytes of chunks were touched. What is read must be the bytes of --like. With
--curl times one curl that asks for the same over one connection instead, and prints the median of the chunks' ranges and
that of the reads' own.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

CHUNK_BYTES, READ_BYTES = 256 << 10, 4 << 10


def places(seed, count, size):
    rng = random.Random(seed)
    chunks = rng.sample(range(size // CHUNK_BYTES), count)
    return [chunk * CHUNK_BYTES + rng.randrange(0, CHUNK_BYTES // READ_BYTES) * READ_BYTES for chunk in chunks]


def curl_median(url, ranges):
    with tempfile.NamedTemporaryFile("w", suffix=".curl") as config:
        # The first has the connection to make.
        entries = [f'url = "{url}"\nrange = {first}-{first + length - 1}\noutput = /dev/null\n'
                   'write-out = "%{http_code} %{time_total}\\n"\n' for first, length in ranges[:1] + ranges]
        config.write("next\n".join(entries))
        config.flush()
        done = subprocess.run(["curl", "-sS", "-K", config.name], check=True, capture_output=True, text=True)
    answers = [line.split() for line in done.stdout.splitlines()]
    if len(answers) != len(ranges) + 1 or any(status != "206" for status, _ in answers):
        sys.exit("curl did not get all ranges")
    return statistics.median(float(seconds) for _, seconds in answers[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--file")
    parser.add_argument("--like", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--curl")
    args = parser.parse_args()

    like = os.open(args.like, os.O_RDONLY)
    offsets = places(args.seed, args.count, os.fstat(like).st_size)
    if args.curl:
        chunks = [(offset // CHUNK_BYTES * CHUNK_BYTES, CHUNK_BYTES) for offset in offsets]
        exact = [(offset, READ_BYTES) for offset in offsets]
        print(f"{curl_median(args.curl, chunks):.6f} {curl_median(args.curl, exact):.6f}")
        return
    file = os.open(args.file, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    took = []
    for offset in offsets:
        started = time.perf_counter()
        got = os.pread(file, READ_BYTES, offset)
        took.append(time.perf_counter() - started)
        if got != os.pread(like, READ_BYTES, offset):
            sys.exit(f"wrong bytes at {offset}")
    print(f"{statistics.median(took):.6f} {len(offsets) * CHUNK_BYTES}")


if __name__ == "__main__":
    main()
