#!/usr/bin/env python3
"""Writes a layer's tar archive to standard output: so many files, in directories of some dozen each.

usage: make_image_tar.py FILES BYTES CORPUS

The files have BYTES together, most of them small and few large, cut at random places from the file CORPUS, so that
they can be compressed as what they come from. With "-" as corpus each file holds its own name, and BYTES is nothing.
The same arguments give the same bytes.
"""
import mmap
import os
import random
import sys
import tarfile
import io

FILES_PER_DIRECTORY = 48
FILE_BYTES_MAX = 8 << 20


def sizes_of(generator, files, total):
    """Sizes as file systems have them: their logarithm is normal."""
    drawn = [min(generator.lognormvariate(0, 2), 2000.0) for _ in range(files)]
    scale = total / sum(drawn)
    return [min(int(size * scale), FILE_BYTES_MAX) for size in drawn]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    files, total, corpus_path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    generator = random.Random(files)
    sizes = corpus = None
    if corpus_path != "-":
        with open(corpus_path, "rb") as file:
            corpus = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        sizes = sizes_of(generator, files, total)
    with tarfile.open(fileobj=os.fdopen(1, "wb"), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for i in range(files):
            directory = f"usr/share/d{i // FILES_PER_DIRECTORY // 100:04}/e{i // FILES_PER_DIRECTORY % 100:02}"
            if i % FILES_PER_DIRECTORY == 0:
                entry = tarfile.TarInfo(directory)
                entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1700000000
                tar.addfile(entry)
            name = f"{directory}/file-{i:07}.txt"
            if corpus is None:
                contents = name.encode()
            else:
                begin = generator.randrange(len(corpus) - sizes[i])
                contents = corpus[begin:begin + sizes[i]]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(contents), 0o644, 1700000000 + i % 100000
            tar.addfile(entry, io.BytesIO(contents))


if __name__ == "__main__":
    main()
