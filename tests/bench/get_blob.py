#!/usr/bin/env python3
"""GETs a blob, hashes it on the way and writes it to a file: the least that a program does that must know what it has.

usage: get_blob.py URL FILE DIGEST

Prints the seconds that it took, without those of starting Python. The bytes must have that digest.
"""

import hashlib
import sys
import time
import urllib.request

BLOCK_BYTES = 1 << 20


def main():
    url, path, digest = sys.argv[1:]
    buffer, found = bytearray(BLOCK_BYTES), hashlib.sha256()
    view = memoryview(buffer)
    begun = time.monotonic()
    with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb", buffering=0) as out:
        while length := answer.readinto(view):
            found.update(view[:length])
            out.write(view[:length])
    print(f"{time.monotonic() - begun:.6f}")
    if f"sha256:{found.hexdigest()}" != digest:
        sys.exit(f"{url} gave other bytes than {digest}")


if __name__ == "__main__":
    main()
