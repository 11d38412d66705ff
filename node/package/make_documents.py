#!/usr/bin/env python3
"""Makes the package's documents.

usage: make_documents.py manual PROGRAM TARGET.SECTION.gz
       make_documents.py changelog FILE TARGET.gz

A manual page is what PROGRAM and all its subcommands say of themselves with --help, so that it can't be out of date.
"""

import gzip
import pathlib
import re
import subprocess
import sys


def help_of(program, command):
    return subprocess.run([program, *command, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout


def subcommands(text):
    """The names that stand in the section "Subcommands:"."""
    section = text.partition("\nSubcommands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  (\S+)", section, flags=re.MULTILINE)


def escaped(text):
    """As roff prints it: a hyphen is a minus sign, and no line is a request."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in lines)


def pages(program, command=()):
    """(command, what it says), of it and all below it."""
    text = help_of(program, command)
    yield command, text
    for name in subcommands(text):
        yield from pages(program, (*command, name))


def manual(program, section):
    name = pathlib.Path(program).name
    said = list(pages(program))
    version = help_of(program, ()).splitlines()[0].partition(": ")[2]
    page = [f'.TH {name.upper()} {section}', ".SH NAME", f"{name} \\- {escaped(version.rstrip('.'))}"]
    for command, text in said:
        page += [".SH " + escaped(" ".join([name, *command])).upper() if command else ".SH SYNOPSIS",
                 ".nf", escaped(text.strip()), ".fi"]
    return "\n".join(page) + "\n"


def main():
    kind, source, target = sys.argv[1:]
    target = pathlib.Path(target)
    if kind == "manual":
        text = manual(source, target.suffixes[-2].lstrip("."))
    else:
        text = pathlib.Path(source).read_text(encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
