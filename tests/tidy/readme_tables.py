#!/usr/bin/env python3
"""Each folder's README.md is a table of its files: a row for every source file, and none for a missing one.

usage: readme_tables.py ROOT

A folder answers for its own files and for those of folders below it that have no README.md. The first cell of
a row names one or more files in backticks, also as `name.{h,cc}`, or as `.cc` after `name.h`; a header's row speaks
for the source file beside it. The row of a folder ends with a slash and speaks for all in it.
"""

import pathlib
import re
import sys

from sources import CODE, source_files

# These must have a table; others may.
FOLDERS = ("node", "node/daemon", "node/cli", "index", "node/image", "node/tls", "p2p", "p2p/http",
           "p2p/registry", "p2p/recipe", "p2p/cluster", "ondemand", "api", "api/http", "tests")


def expand(name, previous):
    """The files that `name` stands for: "a.{h,cc}" for two, and ".cc" for that of the previous name's stem."""
    if name.startswith("."):
        name = previous.rpartition(".")[0] + name
    braces = re.fullmatch(r"(.*)\{(.*)\}", name)
    return [braces.group(1) + ending for ending in braces.group(2).split(",")] if braces else [name]


def named_in_table(readme):
    """The files that stand in backticks in the first cells of the table's rows."""
    names = []
    for line in readme.read_text(encoding="utf-8").splitlines():
        cell = re.match(r"^\|([^|]*)\|", line)
        in_row = []
        for name in re.findall(r"`([^`]+)`", cell.group(1)) if cell else []:
            in_row += expand(name, in_row[-1] if in_row else "")
        names += in_row
    return names


def speaks_for(name, path):
    if name.endswith("/"):
        return path.startswith(name)
    return path == name or (name.endswith(".h") and path in (name[:-2] + ".cc", name[:-2] + ".c"))


def folders_with_table(root, files):
    parents = {parent for file in files for parent in file.parents if parent.parts}
    return sorted(p for p in parents if p.as_posix() in FOLDERS or (root / p / "README.md").exists())


def owned_files(folder, files, folders):
    """Files of `folder`, relative to it, that no table further down answers for."""
    return [file.relative_to(folder).as_posix() for file in files
            if next((parent for parent in file.parents if parent in folders), None) == folder]


def check(root):
    files = source_files(root, CODE)
    complaints = []
    folders = folders_with_table(root, files)
    for folder in folders:
        readme = root / folder / "README.md"
        if not readme.exists():
            complaints.append(f"{folder}/README.md: missing")
            continue
        names = named_in_table(readme)
        for path in owned_files(folder, files, folders):
            if not any(speaks_for(name, path) for name in names):
                complaints.append(f"{folder}/README.md: no row for {path}")
        for name in names:
            if not any((root / folder).glob(name)):
                complaints.append(f"{folder}/README.md: a row for {name}, which is not there")
    return complaints


def main():
    complaints = check(pathlib.Path(sys.argv[1]))
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
