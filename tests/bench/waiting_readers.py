#!/usr/bin/env python3
"""Readers of a file, each of another chunk of 256 KiB, that read it again when they got an error, until they are killed.

usage: waiting_readers.py FILE COUNT

A reader whose chunk comes has no reason to wait any more: the program ends with an error.
"""

import os
import sys
import threading
import time

CHUNK_BYTES = 256 << 10
# So that what is read ahead of one is not another's.
CHUNKS_APART = 8


def read_until_it_comes(file, chunk, came):
    while True:
        try:
            os.pread(file, CHUNK_BYTES, chunk * CHUNK_BYTES)
            came.append(chunk)
            return
        except OSError:
            time.sleep(0.1)


def main():
    file, count = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    came = []
    for reader in range(count):
        threading.Thread(target=read_until_it_comes, args=(file, reader * CHUNKS_APART, came), daemon=True).start()
    while not came:
        time.sleep(0.1)
    sys.exit(f"chunk {came[0]} came")


if __name__ == "__main__":
    main()
