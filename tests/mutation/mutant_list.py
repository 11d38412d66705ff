"""The listed mutants: what is broken, and which tests must notice.

A list is a text file of entries. An entry is some `key: value` lines and then the break, written as a diff is:

    file: node/fetch_table.cc
    why: a fetch that ended keeps its slot
    tests: node_test
      Lane& lane = lanes_[static_cast<int>(fetch.fetch_class)];
    - --lane.under_way;

The lines that start with a blank or with `-` must stand in the file, one after the other, at exactly one place; how
they are indented and the blank lines between them do not matter. Those with `+` take the place of those with `-`.
`tests` names programs, each perhaps with a filter (`node_test:FetchQueueTest.*`); they run in this order until one
notices. An entry with `equivalent: REASON` can't be noticed, and says why. Lines that start with `#` are comments.
"""

import dataclasses

KEYS = ("file", "why", "tests", "equivalent")


class ListError(Exception):
    """An entry that can't be used, and why."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A test program, and which of its tests run (a gtest filter; empty: all)."""
    name: str
    filter: str = ""

    @staticmethod
    def parse(text):
        name, _, chosen = text.partition(":")
        return Program(name, chosen)

    def __str__(self):
        return f"{self.name}:{self.filter}" if self.filter else self.name


@dataclasses.dataclass
class Entry:
    """One listed mutant as it is written down."""
    place: str  # list file and line, for people
    file: str = ""
    why: str = ""
    tests: tuple = ()
    equivalent: str = ""
    diff: list = dataclasses.field(default_factory=list)  # (mark, text) with mark one of " -+"

    def check(self):
        if not self.file or not self.tests or not self.why:
            raise ListError("an entry needs file, why and tests")
        if not any(mark in "-+" for mark, _ in self.diff):
            raise ListError("the entry changes nothing")
        if not any(mark in " -" for mark, _ in self.diff):
            raise ListError("the entry does not say where its lines go")

    def apply(self, text):
        """The text of the file with the break in it, and the number of the line where it begins."""
        lines = text.splitlines()
        solid = [number for number, line in enumerate(lines) if line.strip()]
        wanted = [part for mark, part in self.diff if mark in " -"]
        places = [at for at in range(len(solid) - len(wanted) + 1)
                  if all(lines[solid[at + i]].strip() == part for i, part in enumerate(wanted))]
        if len(places) != 1:
            found = "is not there" if not places else f"stands there {len(places)} times; add lines around it"
            raise ListError(f"{self.file}: '{wanted[0]}' {found}")
        result = lines[:solid[places[0]]]
        at = places[0]
        first_changed = None
        indent = ""
        for mark, part in self.diff:
            if mark in "-+" and first_changed is None:
                first_changed = len(result) + 1
            if mark == "+":
                result.append(indent + part)
                continue
            line = lines[solid[at]]
            indent = line[:len(line) - len(line.lstrip())]
            at += 1
            if mark == " ":
                result.append(line)
        end = solid[at] if at < len(solid) else len(lines)
        return "\n".join(result + lines[end:]) + "\n", first_changed


def parse(text, name):
    """The entries of a list. Raises ListError for what is no entry; each names its line."""
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{name}:{number}"
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] in " -+":
            if not entries:
                raise ListError(f"{place}: a line of a break before its file")
            if not line[1:].strip():
                raise ListError(f"{place}: an empty line in a break")
            entries[-1].diff.append((line[0], line[1:].strip()))
        elif not colon or key not in KEYS:
            raise ListError(f"{place}: expected one of {', '.join(KEYS)}, or a line that starts with ' ', '-' or '+'")
        elif key == "file":
            entries.append(Entry(place=place, file=value.strip()))
        elif not entries or entries[-1].diff:
            raise ListError(f"{place}: an entry begins with file")
        elif key == "tests":
            entries[-1].tests = tuple(Program.parse(word) for word in value.split())
        else:
            setattr(entries[-1], key, value.strip())
    for entry in entries:
        try:
            entry.check()
        except ListError as error:
            raise ListError(f"{entry.place}: {error}") from None
    return entries


def read_folder(folder):
    """The entries of all lists in a folder, in the order of their names."""
    return [entry for path in sorted(folder.glob("*.txt"))
            for entry in parse(path.read_text(encoding="utf-8"), path.name)]
