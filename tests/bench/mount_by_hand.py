#!/usr/bin/env python3
"""Mounts an EROFS image whose contents lie in a second file, with nothing of ours in between.

usage: mount_by_hand.py BOOTSTRAP BLOB DIR

Calls mount(2): mount(8) would put loop devices under plain files.
"""

import ctypes
import os
import sys

MS_RDONLY = 1


def main():
    bootstrap, blob, point = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(bootstrap.encode(), point.encode(), b"erofs", MS_RDONLY, f"device={blob}".encode()):
        sys.exit(f"mount {bootstrap} at {point}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
