#!/usr/bin/env python3
"""Runs the mutation tool on a small tree of its own, and feeds its parts small inputs."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest

import mutant_list
import random_mutants
from processes import Children
from source_code import SourceCode

HERE = pathlib.Path(__file__).resolve().parent

TOY = {
    "CMakeLists.txt": """
        cmake_minimum_required(VERSION 3.25)
        project(toy LANGUAGES CXX)
        set(CMAKE_CXX_STANDARD 20)
        set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
        find_package(GTest REQUIRED)
        add_library(toy STATIC index/count.cc index/other.cc)
        target_include_directories(toy PUBLIC ${PROJECT_SOURCE_DIR})
        add_executable(count_test count_test.cc)
        target_link_libraries(count_test PRIVATE toy GTest::gtest GTest::gtest_main)
        set_target_properties(count_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
        """,
    "index/count.h": """
        #pragma once
        constexpr int kTimes = 2;
        inline int Twice(int number) {
          return number * kTimes;
        }
        int CountTo(int end);
        int Untested(int number);
        """,
    "index/count.cc": """
        #include "index/count.h"
        int CountTo(int end) {
          int count = 0;
          for (int i = 0; i < end; ++i) {
            count += 1;
          }
          return count;
        }
        int Untested(int number) {
          int sum = 0;
          if (number > 3) sum += 7;
          sum += Twice(number);
          return sum;
        }
        """,
    "index/other.cc": "int Other() {\n  return 1;\n}\n",
    "count_test.cc": """
        #include <gtest/gtest.h>
        #include "index/count.h"
        TEST(Count, Counts) { EXPECT_EQ(CountTo(5), 5); }
        TEST(Twice, Doubles) { EXPECT_EQ(Untested(1), 2); }
        """,
    "tests/mutation/programs.txt": "index/*: count_test\n",
}

NOTICED = """
file: index/count.cc
why: counts in twos
tests: count_test
- count += 1;
+ count += 2;

file: index/count.cc
why: nothing is counted, and a null pointer is written to
tests: count_test:Count.*
  int count = 0;
+ *static_cast<volatile int*>(nullptr) = 1;

file: index/count.cc
why: it never ends
tests: count_test
- for (int i = 0; i < end; ++i) {
+ for (;;) {

file: index/count.h
why: a function of a header
tests: count_test
- return number * kTimes;
+ return number * 3;

file: index/count.h
why: what a header declares, for all who include it
tests: count_test
- constexpr int kTimes = 2;
+ constexpr int kTimes = 3;
"""

UNNOTICED = """
file: index/count.cc
why: no test asks
tests: count_test
- if (number > 3) sum += 7;
"""

UNUSABLE = """
file: index/count.cc
why: the line is not there
tests: count_test
- this line is not there;

file: index/count.cc
why: the line is there twice
tests: count_test
- }

file: index/count.cc
why: it does not compile
tests: count_test
- return sum;
+ return summ;

file: index/gone.cc
why: the file is not there
tests: count_test
- x;
"""


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")


def content_of(root):
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*") if path.is_file()}


class WholeRuns(unittest.TestCase):
    """On the toy, whose build is shared by all of them: they differ in their lists, which are no part of it."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = pathlib.Path(folder.name) / "toy"
        cls.env = os.environ | {"XDG_CACHE_HOME": folder.name + "/cache"}
        write_tree(cls.root, TOY)

    def command(self, listed, *options):
        write_tree(self.root, {"tests/mutation/list/toy.txt": listed})
        return [sys.executable, "-B", str(HERE / "run.py"), "--root", str(self.root), *options]

    def run_tool(self, listed, *options):
        """Its exit code, its JSON lines, and what it noted."""
        command = self.command(listed, *options)
        before = content_of(self.root)
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        self.assertEqual(content_of(self.root), before, "the checkout was touched")
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def works_left(self):
        return list(pathlib.Path(self.env["XDG_CACHE_HOME"]).glob("sluice/mutation/*/work"))

    def test_breaks_that_are_noticed(self):
        code, lines, notes = self.run_tool(NOTICED, "--seconds-spare=1")
        self.assertEqual(code, 0, notes)
        self.assertEqual([line["how"] for line in lines[:-1]], ["failed", "crashed", "hung", "failed", "failed"])
        self.assertEqual([line["mutant"] for line in lines[:-1]],
                         ["index/count.cc:5", "index/count.cc:4", "index/count.cc:4", "index/count.h:4",
                          "index/count.h:2"])
        self.assertEqual(lines[-1], {"listed": 5, "noticed": 5, "equivalent": 0, "random": 0, "random_noticed": 0})

        code, again, _ = self.run_tool(NOTICED + UNNOTICED, "--seconds-spare=1", "--resume")
        self.assertEqual(again[:5], lines[:5], "seconds too: nothing was done again")
        self.assertEqual(again[-1], {"listed": 6, "noticed": 5, "equivalent": 0, "random": 0, "random_noticed": 0})
        self.assertEqual(code, 1)
        self.assertEqual(self.works_left(), [])

    def test_entries_that_cannot_be_used(self):
        code, lines, notes = self.run_tool(UNUSABLE)
        self.assertEqual(code, 1)
        self.assertEqual([line["result"] for line in lines[:-1]], ["unusable"] * 4)
        for complaint in ("'this line is not there;' is not there", "'}' stands there 3 times", "does not compile",
                          "there is no index/gone.cc"):
            self.assertIn(complaint, notes)

    def test_an_equivalent_one_must_not_be_noticed(self):
        marked = UNNOTICED.replace("why:", "equivalent: nobody calls it so\nwhy:")
        code, lines, _ = self.run_tool(marked + NOTICED, "--seconds-spare=1", "--only=index/count.cc")
        self.assertEqual(lines[-1], {"listed": 4, "noticed": 3, "equivalent": 1, "random": 0, "random_noticed": 0})
        self.assertEqual(code, 1, "one of four is more than 5 %")
        code, _, notes = self.run_tool(NOTICED.replace("why: counts", "equivalent: no\nwhy: counts"), "--seconds-spare=1")
        self.assertEqual(code, 1)
        self.assertIn("is called equivalent and was noticed", notes)

    def test_only_takes_a_folder(self):
        code, lines, _ = self.run_tool(NOTICED, "--only=node/")
        self.assertEqual((code, lines), (0, [{"listed": 0, "noticed": 0, "equivalent": 0, "random": 0, "random_noticed": 0}]))

    def test_random_ones_are_the_seeds(self):
        spare = ("--seconds-spare=1", "--only=index/count.cc")
        _, one, _ = self.run_tool("", *spare, "--random", "a", "4", "--jobs=1")
        _, two, _ = self.run_tool("", *spare, "--random", "a", "4", "--jobs=3")
        _, other, _ = self.run_tool("", *spare, "--random", "b", "4")
        places = lambda lines: [(line["mutant"], line["why"], line["result"]) for line in lines[:-1]]
        self.assertEqual(places(one), places(two))
        self.assertNotEqual(places(one), places(other))
        self.assertEqual(one[-1]["random"], 4)
        self.assertEqual(one[-1]["random_noticed"], sum(line["result"] == "noticed" for line in one[:-1]))

        code, all_there_are, notes = self.run_tool("", *spare, "--random", "a", "1000", "--resume")
        self.assertEqual(code, 1)
        self.assertIn(f"there are places for {all_there_are[-1]['random']} random mutants only", notes)

    def test_sources_that_fail_by_themselves(self):
        for breaking, complaint in (("EXPECT_EQ(CountTo(5), 6)", "fails as it is"), ("CountTo(5", "don't build")):
            with tempfile.TemporaryDirectory() as folder:
                root = pathlib.Path(folder)
                write_tree(root, TOY | {"tests/mutation/list/toy.txt": NOTICED})
                test = root / "count_test.cc"
                test.write_text(test.read_text(encoding="utf-8").replace("EXPECT_EQ(CountTo(5), 5)", breaking),
                                encoding="utf-8")
                done = subprocess.run([sys.executable, "-B", str(HERE / "run.py"), "--root", folder],
                                      env=os.environ | {"XDG_CACHE_HOME": folder + "/cache"},
                                      capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 2)
                self.assertIn(complaint, done.stderr)

    def test_a_filter_that_chooses_nothing(self):
        code, _, notes = self.run_tool(NOTICED.replace("Count.*", "Gone.*"))
        self.assertEqual(code, 2)
        self.assertIn("count_test:Gone.* runs no test", notes)

    def test_interrupted(self):
        never_ends = NOTICED[NOTICED.index("file: index/count.cc\nwhy: it never"):NOTICED.index("file: index/count.h")]
        process = subprocess.Popen(self.command(UNNOTICED + never_ends, "--seconds-spare=1000", "--jobs=1"),
                                   env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)  # if it goes on, the tests after this one must not find its lock
        self.assertEqual(json.loads(process.stdout.readline())["result"], "unnoticed")
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertIn("--resume goes on from here", notes)
        self.assertEqual(self.works_left(), [])
        running = subprocess.run(["pgrep", "-f", self.env["XDG_CACHE_HOME"]], capture_output=True, text=True, check=False)
        self.assertEqual(running.stdout, "", "a test program was left running")


class Isolation(unittest.TestCase):
    """What runs in a space of its own keeps no file system of others in use."""

    def setUp(self):
        self.mounted = tempfile.mkdtemp(prefix="sluice mutation ", dir="/var/tmp")
        self.addCleanup(os.rmdir, self.mounted)
        mount = subprocess.run(["mount", "-t", "tmpfs", "none", self.mounted], capture_output=True, check=False)
        if mount.returncode != 0:
            self.skipTest("needs the right to mount")
        self.addCleanup(subprocess.run, ["umount", self.mounted], check=True)

    def mounts_seen(self, directory):
        code, output = Children().run(["/bin/cat", "/proc/self/mountinfo"], directory, isolated=True)
        self.assertEqual(code, 0, output)
        return output

    def test_mounts_of_others_are_let_go(self):
        name = pathlib.Path(self.mounted).name.replace(" ", r"\040")
        self.assertNotIn(name, self.mounts_seen("/"))
        self.assertIn(name, pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8"))

    def test_what_it_lies_in_stays(self):
        self.assertIn(pathlib.Path(self.mounted).name.replace(" ", r"\040"), self.mounts_seen(self.mounted))


class Lists(unittest.TestCase):

    def test_lines_around_the_break(self):
        entry, = mutant_list.parse("file: a.cc\nwhy: w\ntests: t u:X.*\n  f();\n- g();\n+ h();\n+ i();\n  j();\n", "list")
        self.assertEqual([str(program) for program in entry.tests], ["t", "u:X.*"])
        self.assertEqual(entry.apply("g();\n  f();\n\n  g();\n  j();\nk();\n"),
                         ("g();\n  f();\n  h();\n  i();\n  j();\nk();\n", 3))
        with self.assertRaisesRegex(mutant_list.ListError, "stands there 2 times"):
            entry.apply("f();\ng();\nj();\nf();\ng();\nj();\n")

    def test_what_is_no_entry(self):
        for text, complaint in (("why: w\n", "list:1: an entry begins with file"),
                                ("file: a\nwhy: w\ntests: t\n", "list:1: the entry changes nothing"),
                                ("file: a\nwhy: w\n- x\n", "list:1: an entry needs file, why and tests"),
                                ("file: a\nwhy: w\ntests: t\n+ x\n", "list:1: the entry does not say where"),
                                ("file: a\ntest: t\n", "list:2: expected one of"),
                                ("- x\n", "list:1: a line of a break before its file")):
            with self.assertRaisesRegex(mutant_list.ListError, complaint):
                mutant_list.parse(text, "list")

    def test_each_listed_break_can_be_made(self):
        entries = mutant_list.read_folder(HERE / "list")
        self.assertGreater(len(entries), 1000)
        for entry in entries:
            with self.subTest(entry.place):
                entry.apply((HERE.parents[1] / entry.file).read_text(encoding="utf-8"))


class RandomMutants(unittest.TestCase):

    def breaks(self, body, kind):
        text = f"int F() {{\n{body}\n}}\n"
        return [(text[site.begin:site.end], site.new) for site in random_mutants.sites(text) if site.kind == kind]

    def test_conditions(self):
        self.assertEqual(self.breaks("if (a) b();", "negated condition"), [("a", "!(a)")])
        self.assertEqual(self.breaks("if (int a = b(); a && c) d();", "negated condition"), [(" a && c", " !(a && c)")])
        self.assertEqual(self.breaks("for (auto i = b(); i; ++i) d();", "negated condition"), [(" i", " !(i)")])
        self.assertEqual(self.breaks("for (auto x : xs) d(); if constexpr (a) b();", "negated condition"), [])

    def test_statements(self):
        self.assertEqual(self.breaks("int x = 2; F(x); return x;", "deleted statement"), [("F(x);", ";")])
        self.assertEqual(self.breaks("if (a) return x;\nreturn y;", "deleted statement"), [("return x;", ";")])
        self.assertEqual([old for old, _ in self.breaks("Post([x] { y = x; std::lock_guard l(m); });", "deleted statement")],
                         ["Post([x] { y = x; std::lock_guard l(m); });", "y = x;"])
        self.assertEqual(self.breaks("std::abort(); (void)x; Digest d(x);", "deleted statement"), [])

    def test_off_by_one(self):
        self.assertEqual(self.breaks("x = a < b;", "off by one"), [("<", "<=")])
        self.assertEqual(self.breaks("x[0] = v<int> + 0x10 + 1.5 + a1;", "off by one"), [("0", "1")])
        self.assertEqual(self.breaks("constexpr int k = 3; x = StrCat(3, y);", "off by one"), [])

    def test_locks_and_syncs(self):
        self.assertEqual(self.breaks("std::lock_guard lock(mutex_);", "dropped lock"), [("std::lock_guard lock(mutex_);", ";")])
        self.assertEqual(self.breaks("if (fs_.SyncData(fd->get()) != 0) return e;", "dropped sync"),
                         [("fs_.SyncData(fd->get())", "0")])
        self.assertEqual(self.breaks("db_->Write(b, Durability::kSynced);", "dropped sync"), [("kSynced", "kOrdered")])

    def test_what_is_no_code(self):
        for kind in ("negated condition", "deleted statement", "off by one"):
            self.assertEqual(self.breaks('// if (a) b(1);\n/* c(2); */ const char* s = "if (a) b(1); \\" d(3);";', kind), [])
            self.assertEqual(random_mutants.sites("namespace n {\nconstexpr int a[] = {1, 2};\nclass C {\n int b = 3;\n};\n}\n"), [])

    def test_what_is_declared_and_what_is_done(self):
        declared = lambda body, rest="": SourceCode(f"int F() {{ {body} }}\nint x;{rest}\n").outside_functions()
        self.assertEqual(declared("return 1;"), declared("return 2;"))
        self.assertNotEqual(declared("return 1;"), declared("return 1;", " int y;"))
        for text in ("template <typename T>\nT F(T t) {\n f(1);\n}\n", "template <typename T>\nclass C {\n void F() { f(1); }\n};\n"):
            self.assertEqual(len(random_mutants.sites(text)), 2)
            self.assertEqual(random_mutants.sites(text, is_header=True), [])

    def test_functions_are_found_wherever_they_are(self):
        source = SourceCode("namespace n {\nC::C(int a) : a_(a) {\n  f();\n}\nstruct S {\n  void g() { h(); }\n};\n}\n")
        self.assertEqual([source.text[s.begin:s.end] for s in source.statements], ["f();", "h();"])


if __name__ == "__main__":
    unittest.main()
