#!/usr/bin/env python3
"""All C and C++ is formatted as .clang-format says.

usage: format.py ROOT     (to mend: clang-format -i FILE)
"""

import subprocess
import sys

from sources import CPP, source_files


def main():
    root = sys.argv[1]
    files = [str(path) for path in source_files(root, CPP)]
    return subprocess.run(["clang-format", "--dry-run", "-Werror", *files], cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
