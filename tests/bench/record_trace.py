#!/usr/bin/env python3
"""Records what a program's start makes the kernel read of an EROFS mount, and when.

usage: record_trace.py --root MOUNT --tracing DIR [--head LINE]... --output FILE -- COMMAND...

--tracing is where tracefs is mounted. Each event erofs_readahead and erofs_read_folio becomes a read of the trace (see
start_trace.h), the ranges as the kernel asked for them, faults of mapped files among them. Nothing else may read the
mount meanwhile, and nothing of it should be in memory. What is read besides regular files belongs to the bootstrap and
is left out.
"""

import argparse
import os
import pathlib
import re
import stat
import subprocess
import sys

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KERNEL_MINOR_BITS = 20  # of a dev_t within the kernel
BUFFER_KIB = 8192  # per processor
LINE = re.compile(r"\s(\d+\.\d{6}): (\w+): (.*)$")
READAHEAD = re.compile(r"nid = (\d+), start = (\d+) nrpage = (\d+)")
READ_FOLIO = re.compile(r"nid = (\d+), \w+, index = (\d+)")
BEGIN, END = "sluice: begin", "sluice: end"


class Instance:
    """An instance of the kernel's tracer of our own, which sees the reads of one file system."""

    def __init__(self, tracing, device):
        self.dir = pathlib.Path(tracing) / "instances" / f"sluice-{os.getpid()}"
        if not (pathlib.Path(tracing) / "events/erofs/erofs_readahead").is_dir():
            sys.exit(f"record_trace: {tracing} has no events of EROFS: is tracefs mounted there, and does the kernel "
                     "have CONFIG_EVENT_TRACING and EROFS?")
        self.device = device

    def __enter__(self):
        self.dir.mkdir()
        self.put("trace_clock", "mono")
        self.put("buffer_size_kb", BUFFER_KIB)
        kernel_device = os.major(self.device) << KERNEL_MINOR_BITS | os.minor(self.device)
        for event in ("erofs_readahead", "erofs_read_folio"):
            self.put(f"events/erofs/{event}/filter", f"dev == {kernel_device}")
            self.put(f"events/erofs/{event}/enable", 1)
        return self

    def __exit__(self, *_):
        self.put("tracing_on", 0)
        self.dir.rmdir()

    def put(self, name, value):
        (self.dir / name).write_text(f"{value}\n")

    def events(self):
        """[(microseconds, name, text)], once nothing is traced any more."""
        self.put("tracing_on", 0)
        for stats in self.dir.glob("per_cpu/cpu*/stats"):
            if re.search(r"(overrun|dropped events): [1-9]", stats.read_text()):
                sys.exit("record_trace: the kernel's buffer was too small for all events")
        found = []
        for line in (self.dir / "trace").read_text().splitlines():
            if match := LINE.search(line):
                seconds, microseconds = match[1].split(".")
                found.append((int(seconds) * 1_000_000 + int(microseconds), match[2], match[3]))
        return found


def files_of(root):
    """{inode number: (path below root, size)} of its regular files; of hard links the first."""
    files = {}
    device = os.lstat(root).st_dev
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device)
        for name in sorted(names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_dev == device:
                files.setdefault(status.st_ino, (os.path.relpath(path, root), status.st_size))
    return files


def reads_of(events, files):
    """([(microseconds, offset, length, path)], when it began, when it ended)"""
    reads, begin, end = [], None, None
    for at, name, text in events:
        if text == BEGIN:
            begin = at
        elif text == END:
            end = at
        elif name == "erofs_readahead":
            nid, page, pages = (int(number) for number in READAHEAD.search(text).groups())
        else:
            nid, page = (int(number) for number in READ_FOLIO.search(text).groups())
            pages = 1
        if name == "tracing_mark_write" or nid not in files:
            continue
        path, size = files[nid]
        first = page * PAGE_BYTES
        length = min((page + pages) * PAGE_BYTES, size) - first
        if length > 0:
            reads.append((at, first, length, path))
    if begin is None or end is None:
        sys.exit("record_trace: the trace does not hold its own begin and end")
    return reads, begin, end


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--tracing", required=True)
    parser.add_argument("--head", action="append", default=[])
    parser.add_argument("--output", required=True)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    with Instance(args.tracing, os.lstat(args.root).st_dev) as instance:
        instance.put("trace_marker", BEGIN)
        status = subprocess.run(args.command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
        instance.put("trace_marker", END)
        events = instance.events()
    if status != 0:
        sys.exit(f"record_trace: the program failed: exit status {status}")
    reads, last, end = reads_of(events, files_of(args.root))
    if not reads:
        sys.exit(f"record_trace: the program read nothing of {args.root}, or all was in memory")
    with open(args.output, "w", encoding="utf-8") as output:
        for line in args.head:
            output.write(f"# {line}\n")
        for at, offset, length, path in reads:
            output.write(f"{at - last} {offset} {length} {path}\n")
            last = at
        output.write(f"{end - last} end\n")


if __name__ == "__main__":
    main()
