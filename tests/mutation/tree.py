"""A copy of the sources and its build: what mutants are made from, while the checkout stays as it is."""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from source_code import SourceCode

TREES_KEPT = 3


class BuildError(Exception):
    """The sources as they are can't be built or don't pass their tests, so that nothing can be said of mutants."""


@dataclasses.dataclass
class BrokenObjects:
    """What is linked in the place of a tree's own."""
    replaced: dict = dataclasses.field(default_factory=dict)  # path of each, by the object whose place it takes
    functions: pathlib.Path = None  # an object with the functions of a header


def source_paths(root):
    """What git tracks or would track, relative to `root`; without git all but build trees."""
    listing = subprocess.run(["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached",
                              "--others", "--exclude-standard", "."], capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        names = {name for name in listing.stdout.split("\0") if name}
    else:
        names = {path.relative_to(root).as_posix() for path in root.rglob("*")}
        names = {name for name in names if not name.startswith(("build", ".git/"))}
    return sorted(name for name in names if (root / name).is_file())


def tree_hash(root, names):
    """Of all that mutants are built from. The mutants themselves and documents are no part of it."""
    total = hashlib.sha256()
    for name in names:
        if name.startswith("tests/mutation/") or name.endswith(".md"):
            continue
        content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


class Tree:
    """The copy of one state of the sources, kept below `cache` under the hash of that state, and built at -O0.

    The mutants of a tree never change it: each compiles what it breaks into a directory of its own, and links test
    programs with that in the place of the tree's objects. So they can be made side by side.
    """

    def __init__(self, root, cache, children, jobs):
        self._children = children
        self._jobs = jobs
        names = source_paths(root)
        self.hash = tree_hash(root, names)
        self.path = cache / self.hash[:16]
        self.source = self.path / "source"
        self.build = self.path / "build"
        # Constant once the programs are built.
        self._commands = {}  # by object: its source, and the command that compiles it
        self._links = {}  # by program: the command that links it, and the objects that it is made from
        self._users = collections.defaultdict(set)  # by header: the objects that include it
        self._lock = None
        cache.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True)
        self._take_lock()
        self.path.touch()  # the last one used is the last to go
        self._forget_old(cache)
        if not self.source.exists():
            self._copy(root, names)

    def _take_lock(self):
        self._lock = open(self.path / "LOCK", "a+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BuildError(f"another run works in {self.path}; wait for it, or set XDG_CACHE_HOME") from None

    def close(self):
        self._lock.close()

    def _forget_old(self, cache):
        others = sorted((path for path in cache.iterdir() if path.is_dir() and path != self.path),
                        key=lambda path: path.stat().st_mtime)
        for path in others[:max(0, len(others) - (TREES_KEPT - 1))]:
            with contextlib.suppress(OSError), open(path / "LOCK", "a+", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)

    def _copy(self, root, names):
        partial = self.path / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        for name in names:
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
        if tree_hash(partial, [name for name in names if (partial / name).is_file()]) != self.hash:
            raise BuildError("the sources changed while they were copied; run this again")
        partial.rename(self.source)

    # --- the build without any break

    def build_programs(self, names):
        """Builds test programs. Raises BuildError with what the build says."""
        # Tests are not asked for their names at build time: a break is linked without cmake.
        self._step(["cmake", "-G", "Ninja", "-S", str(self.source), "-B", str(self.build), "-DCMAKE_BUILD_TYPE=Debug",
                    "-DCMAKE_CXX_FLAGS_DEBUG=-O0", "-DCMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE=PRE_TEST"],
                   "configure", self.path)
        known = {self._program_target(name): name for name in names}
        self._step(["ninja", f"-j{self._jobs}", *sorted(known)], "build", self.build)
        database = json.loads((self.build / "compile_commands.json").read_text(encoding="utf-8"))
        for unit in database:
            source = pathlib.Path(unit["file"])
            if source.is_relative_to(self.source):
                command = shlex.split(unit["command"])
                self._commands[command[command.index("-o") + 1]] = (source.relative_to(self.source).as_posix(), command)
        for target, name in known.items():
            self._links[name] = self._link_of(target)
        self._read_users()

    def _read_users(self):
        _, output = self._children.run(["ninja", "-t", "deps"], self.build)
        source = os.path.normpath(self.source) + "/"
        for block in output.split("\n\n"):
            obj = block.split(":", 1)[0].strip()
            for line in block.splitlines()[1:]:
                path = os.path.normpath(self.build / line.strip())
                if path.startswith(source):
                    self._users[path.removeprefix(source)].add(obj)

    def _step(self, command, what, directory):
        code, output = self._children.run(command, directory)
        if code != 0:
            raise BuildError(f"the sources as they are don't {what}:\n{output[-4000:]}")

    def _program_target(self, name):
        if not re.fullmatch(r"[\w.-]+", name):
            raise BuildError(f"'{name}' is no name of a test program")
        _, output = self._children.run(["ninja", "-t", "query", name], self.build)
        # A program that lies in a folder has its plain name as an alias.
        target = re.search(rf"^  input: phony\n    (\S*/{re.escape(name)})$", output, re.MULTILINE)
        if target:
            return target.group(1)
        if re.search(rf"^{re.escape(name)}:$", output, re.MULTILINE):
            return name
        raise BuildError(f"there is no test program '{name}'")

    def _link_of(self, target):
        """(command that links the target, objects that it is made from)."""
        _, output = self._children.run(["ninja", "-t", "commands", "-s", target], self.build)
        parts = [shlex.split(part) for part in output.strip().split("&&")]
        links = [part for part in parts if target in part and "-o" in part]
        if len(links) != 1:
            raise BuildError(f"can't tell how {target} is linked: {output}")
        _, commands = self._children.run(["ninja", "-t", "commands", target], self.build)
        return links[0], set(re.findall(r" -o (\S+\.o)\b", commands))

    # --- the build of a break

    def objects_of(self, file, programs):
        """The objects of these programs that are made from `file`; for a header, all that include it."""
        linked = set().union(*(self._links[program][1] for program in programs))
        if file.endswith(".h"):
            return sorted(linked & self._users.get(file, set()))
        return [obj for obj in sorted(linked) if obj in self._commands and self._commands[obj][0] == file]

    def compile_break(self, directory, file, text, objects):
        """Compiles with `text` in the place of `file`. Returns (the objects, what the compiler says or None)."""
        broken = directory / "source" / file
        broken.parent.mkdir(parents=True, exist_ok=True)
        broken.write_text(text, encoding="utf-8")
        if file.endswith(".h") and self._declares_the_same(file, text):
            # Without optimisation every function of a header is called, and of equal ones the linker takes the first:
            # one object that has them all stands for all that include it.
            alone = directory / "header.cc"
            alone.write_text(f'#include "{file}"\n', encoding="utf-8")
            made = BrokenObjects(functions=directory / "header.o")
            return made, self._compile(directory, objects[0], alone, made.functions,
                                       ["-fkeep-inline-functions", "-ffunction-sections"])
        made = BrokenObjects()
        for number, obj in enumerate(objects):
            source = self._commands[obj][0]
            made.replaced[obj] = directory / f"{number}.o"
            complaint = self._compile(directory, obj, broken if source == file else None, made.replaced[obj])
            if complaint is not None:
                return made, complaint
        return made, None

    def _declares_the_same(self, file, text):
        before = SourceCode((self.source / file).read_text(encoding="utf-8"), is_header=True)
        return before.outside_functions() == SourceCode(text, is_header=True).outside_functions()

    def _compile(self, directory, obj, source, output, flags=()):
        """As `obj` is compiled, but what lies in the directory comes first. Returns what the compiler says if it fails."""
        command = self._commands[obj][1]
        command = command[self._compiler_at(command):]
        command[command.index("-o") + 1] = str(output)
        if source:
            command[command.index("-c") + 1] = str(source)
        # A break is judged by the tests, not by what it makes unused.
        command += ["-w", "-g0", *flags]
        command.insert(1, f"-I{directory / 'source'}")
        code, said = self._children.run(command, self.build, env=os.environ | {"TMPDIR": str(directory)})
        return None if code == 0 else said

    @staticmethod
    def _compiler_at(command):
        """Where the compiler stands behind a launcher: what breaks are is not worth keeping in a compiler cache."""
        return max([at for at, word in enumerate(command[:command.index("-o")])
                    if re.search(r"(^|/)(g\+\+|c\+\+|clang\+\+|gcc|cc|clang)[-\d.]*$", word)][:1] or [0])

    def link_break(self, directory, made, program):
        """The path of `program` with the broken objects in it, or what the linker says as a BuildError."""
        command, inputs = self._links[program]
        command = list(command)
        output = directory / program
        command[command.index("-o") + 1] = str(output)
        added = []
        for obj, path in made.replaced.items():
            if obj in command:
                command[command.index(obj)] = str(path)
            elif obj in inputs:
                added.append(str(path))  # comes before the library, whose own object is not taken then
        if made.functions:
            # Of what the header includes there are functions, too, that need what the program has not.
            added += [str(made.functions), "-Wl,--gc-sections"]
        command[1:1] = added
        code, said = self._children.run(command, self.build, env=os.environ | {"TMPDIR": str(directory)})
        if code != 0:
            raise BuildError(said)
        return output

    def links(self, program, objects):
        return any(obj in self._links[program][1] for obj in objects)

    def program_path(self, program):
        command, _ = self._links[program]
        return self.build / command[command.index("-o") + 1]

    def run_program(self, path, program, directory, seconds_max, report=None):
        """Runs a test program in `directory`. Returns (exit code or None if the time was up, output)."""
        env = os.environ | {"GTEST_FAIL_FAST": "1", "GTEST_BRIEF": "1", "TEST_TMPDIR": f"{directory}/", "TMPDIR": str(directory)}
        if program.filter:
            env["GTEST_FILTER"] = program.filter
        if report:
            env["GTEST_OUTPUT"] = f"json:{report}"
        return self._children.run([str(path)], directory, env=env, seconds_max=seconds_max, isolated=True)


def cache_folder():
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "sluice" / "mutation"


def note(text):
    print(f"-- {text}", file=sys.stderr, flush=True)
