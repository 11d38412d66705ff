#!/usr/bin/env python3
"""All shell scripts parse, and shellcheck has nothing to say about them.

usage: scripts.py ROOT
"""

import subprocess
import sys

from sources import source_files


def main():
    root = sys.argv[1]
    scripts = [str(path) for path in source_files(root, (".sh",))] + [".ci/run"]
    parsed = [subprocess.run(["bash", "-n", script], cwd=root, check=False).returncode == 0 for script in scripts]
    checked = subprocess.run(["shellcheck", "--severity=warning", "--external-sources", "--source-path=SCRIPTDIR:.", *scripts],
                             cwd=root, check=False)
    return 0 if all(parsed) and checked.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
