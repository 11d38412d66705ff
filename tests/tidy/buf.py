#!/usr/bin/env python3
"""buf finds nothing to say of the protobufs, by the rules of api/proto/buf.yaml.

usage: buf.py ROOT

buf is fetched once; if it can't be had, that is a failure where CI=true, and elsewhere the test is skipped (exit 77).
"""

import os
import pathlib
import subprocess
import sys

SKIPPED = 77


def main():
    root = pathlib.Path(sys.argv[1])
    fetch = subprocess.run(["bash", root / "tests/tidy/fetch_buf.sh"], stdout=subprocess.PIPE, text=True, check=False)
    if fetch.returncode == SKIPPED and os.environ.get("CI") != "true":
        print("SKIPPED: the protobufs are NOT linted, because buf can't be had")
        return SKIPPED
    if fetch.returncode != 0:
        print("buf can't be had, so the protobufs can't be linted")
        return 1
    return subprocess.run([fetch.stdout.strip(), "lint", "api/proto"], cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
