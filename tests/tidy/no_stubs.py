#!/usr/bin/env python3
"""Nothing unfinished is left lying about: no markers for later, no bodies that only say so, no disabled tests.

usage: no_stubs.py ROOT
"""

import pathlib
import re
import sys

from sources import CODE, source_files

# Written with a gap, so that this file does not find itself.
MARKERS = re.compile(r"\b(TO[ ]?DO|FIX[ ]?ME|XX[ ]?X|HA[ ]?CK)\b|not (yet )?implemente[d]|UNIMPLEMENTE[D]|DISABLE[D]_"
                     .replace("[ ]?", ""))


def main():
    root = pathlib.Path(sys.argv[1])
    found = False
    for path in source_files(root, CODE + (".txt", ".cmake", ".yaml", ".yml")):
        for number, line in enumerate((root / path).read_text(encoding="utf-8").splitlines(), start=1):
            if MARKERS.search(line):
                print(f"{path}:{number}: {line.strip()}")
                found = True
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
