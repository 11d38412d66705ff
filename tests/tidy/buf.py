#!/usr/bin/env python3
"""buf finds nothing to say of the protobufs, and clients of the last commit's protobufs can go on, by the rules of
api/proto/buf.yaml.

The last commit is HEAD if the protobufs differ from it, else the one before. Where there is none, as in a tree without
history, only the first half is tested.

usage: buf.py ROOT

buf is fetched once; if it can't be had, that is a failure where CI=true, and elsewhere the test is skipped (exit 77).
"""

import os
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
PROTOS = "api/proto"


def git(root, *arguments, **options):
    return subprocess.run(["git", "-C", root, *arguments], stdout=subprocess.PIPE, check=False, **options)


def last_commit(root):
    """The commit to compare with; None if there is none."""
    changed = git(root, "status", "--porcelain", "--", PROTOS, stderr=subprocess.DEVNULL)
    if changed.returncode != 0:
        return None
    name = "HEAD" if changed.stdout else "HEAD^"
    found = git(root, "rev-parse", "--verify", "--quiet", f"{name}:{PROTOS}")
    return name if found.returncode == 0 else None


def breaks_nobody(buf, root):
    commit = last_commit(root)
    if commit is None:
        print("the protobufs are NOT compared with another commit's, because there is none")
        return True
    with tempfile.TemporaryDirectory() as before:
        archive = git(root, "archive", commit, PROTOS)
        archive.check_returncode()
        subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
        against = pathlib.Path(before) / PROTOS
        return subprocess.run([buf, "breaking", PROTOS, "--against", against], cwd=root, check=False).returncode == 0


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    fetch = subprocess.run(["bash", pathlib.Path(__file__).parent / "fetch_buf.sh"], stdout=subprocess.PIPE, text=True,
                           check=False)
    if fetch.returncode == SKIPPED and os.environ.get("CI") != "true":
        print("SKIPPED: the protobufs are NOT linted, because buf can't be had")
        return SKIPPED
    if fetch.returncode != 0:
        print("buf can't be had, so the protobufs can't be linted")
        return 1
    buf = fetch.stdout.strip()
    lints = subprocess.run([buf, "lint", PROTOS], cwd=root, check=False).returncode == 0
    return 0 if breaks_nobody(buf, root) and lints else 1


if __name__ == "__main__":
    sys.exit(main())
