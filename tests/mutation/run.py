#!/usr/bin/env python3
"""Breaks the code on purpose, one place at a time, and sees whether the tests notice.

usage: bash tests/mutation/run.sh [--only FOLDER] [--jobs 2] [--resume] [--random SEED N]

Runs the listed mutants (tests/mutation/list), and with --random N more that SEED draws over node/ and index/ by
itself: those that compile count. Each is a JSON line on standard output, and the last line sums up:

  {"listed":N,"noticed":N,"equivalent":N,"random":N,"random_noticed":N}

The exit code is 0 if at least 95 % of the listed ones (without the equivalent ones, of which there may be 5 %) and
80 % of the random ones were noticed, 1 if not or if an entry could not be used, 2 if nothing could be run, and 130 if
the run was interrupted. The checkout is left alone: all is built from a copy in ~/.cache/sluice/mutation, under the
hash of the sources, where the results are kept too. --resume takes those that are there.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

import mutant_list
import random_mutants
from mutant_list import ListError, Program
from processes import Children, Interrupted
from source_code import SourceCode
from tree import BuildError, Tree, cache_folder, note

LISTED_SHARE_MIN = 0.95
RANDOM_SHARE_MIN = 0.80
EQUIVALENT_SHARE_MAX = 0.05
RANDOM_FOLDERS = ("node", "index")  # without the folders in them
# A break may make a test hang. What a test takes otherwise, other work on the machine may stretch.
TEST_SECONDS_SPARE = 8
TEST_TIME_FACTOR = 4
# Of a program without a break.
PROGRAM_SECONDS_MAX = 300
# What making and testing a mutant should take; a hang takes longer.
MUTANT_SECONDS_MAX = 20
# After which Ctrl-C is noticed at the latest.
SIGNAL_NOTICED_SECONDS = 0.2


@dataclasses.dataclass
class Mutant:
    origin: str  # "listed" or "random"
    file: str
    line: int
    why: str
    tests: tuple
    text: str  # of the whole file, broken
    equivalent: str = ""
    error: str = ""  # why it can't be made

    def key(self):
        parts = [self.file, hashlib.sha256(self.text.encode()).hexdigest(), *map(str, self.tests)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Verdicts:
    """What became of each mutant of one tree, kept in a file as soon as it is known. Thread-safe."""

    def __init__(self, path, resume):
        self._lock = threading.Lock()
        self._known = {}  # guarded by _lock
        if resume and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    kept = json.loads(line)
                    self._known[kept.pop("key")] = kept
                except (ValueError, KeyError):
                    continue  # the end of a run that was killed
        self._file = open(path, "a" if resume else "w", encoding="utf-8")
        self._file.write("\n" if resume else "")

    def find(self, mutant):
        with self._lock:
            return self._known.get(mutant.key())

    def keep(self, mutant, verdict):
        with self._lock:
            self._known[mutant.key()] = verdict
            self._file.write(json.dumps({"key": mutant.key(), **verdict}) + "\n")
            self._file.flush()


class Judge:
    """Makes mutants and holds them against their tests. Thread-safe once the programs are built."""

    def __init__(self, tree, verdicts, work, seconds_spare):
        self._tree = tree
        self._verdicts = verdicts
        self._work = work
        self._seconds_spare = seconds_spare
        self._seconds_max = {}  # per program; constant once prepared

    def prepare(self, programs):
        """Builds the programs and runs each as it is: it must pass, and its time bounds that of a broken one."""
        note(f"building {self._tree.path}")
        self._tree.build_programs({program.name for program in programs})
        for program in programs:
            with tempfile.TemporaryDirectory(dir=self._work) as directory:
                report = pathlib.Path(directory) / "report.json"
                started = time.monotonic()
                code, output = self._tree.run_program(self._tree.program_path(program.name), program, directory,
                                                      PROGRAM_SECONDS_MAX, report)
                seconds = time.monotonic() - started
                if code != 0:
                    what = "does not end" if code is None else "fails"
                    raise BuildError(f"{program} {what} as it is:\n{output[-4000:]}")
                if not report.exists() or json.loads(report.read_text(encoding="utf-8"))["tests"] == 0:
                    raise BuildError(f"{program} runs no test")
                self._seconds_max[program] = self._seconds_spare + TEST_TIME_FACTOR * seconds

    def judge(self, mutant):
        """{"result": "noticed", "unnoticed" or "unusable", ...}"""
        if mutant.error:
            return {"result": "unusable", "error": mutant.error}
        known = self._verdicts.find(mutant)
        if known:
            return known
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._work, ignore_cleanup_errors=True) as directory:
            verdict = self._make_and_test(mutant, pathlib.Path(directory))
        verdict["seconds"] = round(time.monotonic() - started, 1)
        self._verdicts.keep(mutant, verdict)
        return verdict

    def _make_and_test(self, mutant, directory):
        objects = self._tree.objects_of(mutant.file, [program.name for program in mutant.tests])
        programs = [program for program in mutant.tests if self._tree.links(program.name, objects)]
        strangers = set(mutant.tests) - set(programs)
        if not programs or (strangers and mutant.origin == "listed"):
            return {"result": "unusable", "error": f"{mutant.file} is no part of {', '.join(sorted(map(str, strangers)))}"}
        made, complaint = self._tree.compile_break(directory, mutant.file, mutant.text, objects)
        if complaint is not None:
            return {"result": "unusable", "error": "does not compile", "compiler": complaint[:1000]}
        for program in programs:
            try:
                path = self._tree.link_break(directory, made, program.name)
            except BuildError as error:
                return {"result": "unusable", "error": "does not link", "compiler": str(error)[:1000]}
            code, _ = self._tree.run_program(path, program, directory, self._seconds_max[program])
            if code != 0:
                how = "hung" if code is None else "failed" if code == 1 else "crashed"
                return {"result": "noticed", "by": str(program), "how": how}
        return {"result": "unnoticed"}


def read_listed(root, only):
    """The listed mutants of a tree. Raises ListError for a list that can't be read."""
    mutants = []
    for entry in mutant_list.read_folder(root / "tests/mutation/list"):
        if not in_folder(entry.file, only):
            continue
        mutant = Mutant("listed", entry.file, 0, entry.why, entry.tests, "", entry.equivalent)
        try:
            mutant.text, mutant.line = entry.apply((root / entry.file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            mutant.error = f"{entry.place}: there is no {entry.file}"
        except ListError as error:
            mutant.error = f"{entry.place}: {error}"
        mutants.append(mutant)
    return mutants


def read_programs(path):
    """[(pattern, programs)] of the file that says which tests a random mutant is held against."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pattern, _, programs = line.partition(":")
        if line.strip() and not line.startswith("#"):
            rows.append((pattern.strip(), tuple(Program.parse(word) for word in programs.split())))
    return rows


def draw(root, only, seed):
    """Yields random mutants for ever, or until there are no more places, in an order that the seed decides."""
    rows = read_programs(root / "tests/mutation/programs.txt")
    files = {}
    for path in sorted(path for folder in RANDOM_FOLDERS for path in (root / folder).glob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix in (".cc", ".h") and in_folder(name, only):
            files[name] = path.read_text(encoding="utf-8")
    for name, site in random_mutants.shuffled(files, seed):
        tests = next((programs for pattern, programs in rows if fnmatch.fnmatchcase(name, pattern)), ())
        source = SourceCode(files[name])
        old = " ".join(source.text[site.begin:site.end].split())
        new = " ".join(site.new.split())
        yield Mutant("random", name, source.line_of(site.begin), f"{site.kind}: {old} -> {new}", tests,
                     site.apply(files[name]), error="" if tests else f"programs.txt names no test for {name}")


def in_folder(name, only):
    return not only or name == only or name.startswith(only.rstrip("/") + "/")


def report(mutant, verdict):
    line = {"mutant": f"{mutant.file}:{mutant.line}", "kind": mutant.origin, "why": mutant.why, **verdict}
    if mutant.equivalent:
        line["equivalent"] = mutant.equivalent
    print(json.dumps(line, ensure_ascii=False), flush=True)


class Run:
    """Judges in several threads, reports in the order of the mutants."""

    def __init__(self, judge, executor, jobs):
        self._judge = judge
        self._executor = executor
        self._jobs = jobs
        self.counts = {"listed": 0, "noticed": 0, "equivalent": 0, "random": 0, "random_noticed": 0}
        self.complaints = []
        self.slow = 0  # took longer than MUTANT_SECONDS_MAX, and not because they hung

    def _verdicts(self, mutants):
        """(mutant, verdict) in order; no more are begun ahead than there are jobs."""
        pending = []
        for mutant in mutants:
            pending.append((mutant, self._executor.submit(self._judge.judge, mutant)))
            while len(pending) > self._jobs or (pending and pending[0][1].done()):
                yield self._result(*pending.pop(0))
        for first, future in pending:
            yield self._result(first, future)

    def _result(self, mutant, future):
        verdict = future.result()
        self.slow += verdict.get("seconds", 0) > MUTANT_SECONDS_MAX and verdict.get("how") != "hung"
        return mutant, verdict

    def run_listed(self, mutants):
        for mutant, verdict in self._verdicts(mutants):
            report(mutant, verdict)
            self.counts["listed"] += 1
            result = verdict["result"]
            if result == "unusable":
                self.complaints.append(f"{mutant.file}: {verdict['error']} ({mutant.why})")
            elif mutant.equivalent:
                self.counts["equivalent"] += 1
                if result == "noticed":
                    self.complaints.append(f"{mutant.file}:{mutant.line} is called equivalent and was noticed ({mutant.why})")
            else:
                self.counts["noticed"] += result == "noticed"

    def run_random(self, mutants, wanted):
        if wanted == 0:
            return
        for mutant, verdict in self._verdicts(mutants):
            if verdict["result"] == "unusable":
                if "compiler" not in verdict:
                    self.complaints.append(verdict["error"])
                continue  # draw again
            report(mutant, verdict)
            self.counts["random"] += 1
            self.counts["random_noticed"] += verdict["result"] == "noticed"
            if self.counts["random"] == wanted:
                return
        self.complaints.append(f"there are places for {self.counts['random']} random mutants only, not {wanted}")

    def passed(self):
        counts = self.counts
        to_notice = counts["listed"] - counts["equivalent"]
        return (not self.complaints
                and counts["noticed"] >= math.ceil(LISTED_SHARE_MIN * to_notice)
                and counts["equivalent"] <= EQUIVALENT_SHARE_MAX * counts["listed"]
                and counts["random_noticed"] >= math.ceil(RANDOM_SHARE_MIN * counts["random"]))


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="tests/mutation/run.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="FOLDER", default="", help="mutants of this folder or file only")
    parser.add_argument("--jobs", type=int, default=2, help="how many are made and tested at a time (default: 2)")
    parser.add_argument("--resume", action="store_true", help="keep the results that an earlier run of these sources had")
    parser.add_argument("--random", nargs=2, metavar=("SEED", "N"), default=("", "0"), help="draw N more by SEED")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2],
                        help=argparse.SUPPRESS)
    parser.add_argument("--seconds-spare", type=float, default=TEST_SECONDS_SPARE, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.jobs < 1 or not parsed.random[1].isdigit():
        parser.error("--jobs needs a number above 0, and --random a seed and a number")
    return parsed


def run(options, children):
    tree = Tree(options.root, cache_folder(), children, options.jobs)
    work = tree.path / "work"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=options.jobs)
    try:
        # The lists may be newer than the copy: they are no part of what it is a copy of.
        shutil.rmtree(tree.source / "tests/mutation", ignore_errors=True)
        shutil.copytree(options.root / "tests/mutation", tree.source / "tests/mutation",
                        ignore=shutil.ignore_patterns("__pycache__"))
        listed = read_listed(tree.source, options.only)
        seed, wanted = options.random[0], int(options.random[1])
        rows = read_programs(tree.source / "tests/mutation/programs.txt") if wanted else []
        programs = {program for mutant in listed for program in mutant.tests}
        programs |= {program for _, named in rows for program in named}
        judge = Judge(tree, Verdicts(tree.path / "verdicts.jsonl", options.resume), work,
                      options.seconds_spare)
        if programs:
            judge.prepare(sorted(programs, key=str))
        runner = Run(judge, executor, options.jobs)
        runner.run_listed(listed)
        runner.run_random(draw(tree.source, options.only, seed), wanted)
        for complaint in runner.complaints:
            note(complaint)
        if runner.slow:
            note(f"{runner.slow} mutants took longer than {MUTANT_SECONDS_MAX} s each")
        print(json.dumps(runner.counts), flush=True)
        return 0 if runner.passed() else 1
    finally:
        # Those that were begun ahead are not wanted any more.
        children.stop()
        executor.shutdown(cancel_futures=True)
        shutil.rmtree(work, ignore_errors=True)
        tree.close()


def outcome(options, children):
    """The exit code."""
    try:
        return run(options, children)
    except (BuildError, ListError) as error:
        note(str(error))
        return 2
    except Interrupted:
        note("interrupted; --resume goes on from here")
        return 130


def main():
    options = parse_arguments(sys.argv[1:])
    children = Children()
    # Python runs a handler in the main thread, between any two steps of it. An exception from there may come just
    # after a lock was taken, and leave it so: all work is done in another thread, and the handler raises nothing.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: children.stop())
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as work:
        working = work.submit(outcome, options, children)
        # In pieces: the signal may have been delivered to another thread, and that does not end a wait of this one.
        while not concurrent.futures.wait([working], timeout=SIGNAL_NOTICED_SECONDS).done:
            pass
        return working.result()


if __name__ == "__main__":
    sys.exit(main())
