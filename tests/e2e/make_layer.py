#!/usr/bin/env python3
"""Writes a layer to standard output, byte by byte, so that nothing is put right on the way.

usage: make_layer.py ENTRY [, ENTRY]... [--end BYTES]

ENTRY is KIND NAME [KEY=VALUE]...; KIND is file, dir, link (symbolic) or hard.

  data=TEXT zeros=N noise=N  what is in a file, in this order
  to=TARGET                  of a link
  mode=OCTAL mtime=SECONDS   default 644 or 755, and 1000000000
  pax.KEY=VALUE              a record of a pax header, taken before what stands in the entry itself

--end BYTES  what follows the last entry's bytes, in place of its padding and the archive's end: so many zeros
"""

import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from random_layers import header, pax_record, padded

KINDS = {b"file": b"0", b"hard": b"1", b"link": b"2", b"dir": b"5"}
PIECE = 1 << 20
END = bytes(1024)


def contents(keys):
    """In pieces: a file may be larger than memory."""
    yield keys.get(b"data", b"")
    noise = random.Random(1)
    for size, piece in ((int(keys.get(b"zeros", 0)), bytes), (int(keys.get(b"noise", 0)), noise.randbytes)):
        for start in range(0, size, PIECE):
            yield piece(min(PIECE, size - start))


def write_entry(out, kind, name, words):
    """Returns the zeros that should follow."""
    keys = dict(word.split(b"=", 1) for word in words)
    records = [pax_record(key[4:], value) for key, value in keys.items() if key.startswith(b"pax.")]
    if records:
        body = b"".join(records)
        out.write(header({}, b"pax", b"x", len(body)) + padded(body))
    size = len(keys.get(b"data", b"")) + int(keys.get(b"zeros", 0)) + int(keys.get(b"noise", 0))
    out.write(header({"mode": int(keys.get(b"mode", b"755" if kind == b"dir" else b"644"), 8),
                      "mtime": (int(keys.get(b"mtime", 10**9)), 0), "link": keys.get(b"to", b"")},
                     name, KINDS[kind], size))
    for piece in contents(keys):
        out.write(piece)
    return bytes(-size % 512)


def main():
    words = [os.fsencode(word) for word in sys.argv[1:]]
    end = None
    if words[-2:-1] == [b"--end"]:
        end = int(words[-1])
        words = words[:-2]
    out, padding, entry = sys.stdout.buffer, b"", []
    for word in words + [b","]:
        if word != b",":
            entry.append(word)
            continue
        out.write(padding)
        padding = write_entry(out, entry[0], entry[1], entry[2:])
        entry = []
    out.write(padding + END if end is None else bytes(end))


if __name__ == "__main__":
    main()
