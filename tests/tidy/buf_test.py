#!/usr/bin/env python3
"""Holds that buf.py finds what would break the clients of the last commit. Skipped if buf can't be had."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77
CHECK = pathlib.Path(__file__).parent / "buf.py"
BUF_YAML = "version: v2\nlint:\n  use:\n    - STANDARD\nbreaking:\n  use:\n    - FILE\n"


def proto(field):
    return f'syntax = "proto3";\npackage a.v1;\nmessage A {{\n  {field}\n}}\n'


class BufTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        (self.root / "api/proto/a/v1").mkdir(parents=True)
        (self.root / "api/proto/buf.yaml").write_text(BUF_YAML, encoding="utf-8")
        self.write(proto("string name = 1;"))

    def write(self, text):
        (self.root / "api/proto/a/v1/a.proto").write_text(text, encoding="utf-8")

    def commit(self):
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", "init", "--quiet", self.root], check=True)
        subprocess.run(["git", "-C", self.root, "add", "."], check=True)
        subprocess.run(["git", "-C", self.root, *who, "commit", "--quiet", "--message", "a"], check=True)

    def result(self):
        run = subprocess.run([sys.executable, "-B", CHECK, self.root], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, check=False)
        if run.returncode == SKIPPED:
            self.skipTest(run.stdout)
        return run.returncode, run.stdout

    def test_a_field_that_changes_its_type_is_found_before_and_after_the_commit(self):
        self.commit()
        self.assertEqual(self.result()[0], 0)
        self.write(proto("int32 name = 1;"))
        code, said = self.result()
        self.assertEqual(code, 1, said)
        self.assertIn("name", said)
        self.commit()
        self.assertEqual(self.result()[0], 1)

    def test_what_is_added_breaks_nobody(self):
        self.commit()
        self.write(proto("string name = 1;\n  string more = 2;"))
        code, said = self.result()
        self.assertEqual(code, 0, said)

    def test_without_history_there_is_the_lint(self):
        code, said = self.result()
        self.assertEqual(code, 0, said)
        self.assertIn("NOT compared", said)
        self.write(proto("string badName = 1;"))
        self.assertEqual(self.result()[0], 1)


if __name__ == "__main__":
    unittest.main()
