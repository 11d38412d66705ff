#!/usr/bin/env python3
"""Feeds readme_tables.py small trees."""

import pathlib
import tempfile
import unittest

import readme_tables


def complaints_about(files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = pathlib.Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return readme_tables.check(pathlib.Path(root))


def table(*names):
    return "Intro.\n\n| file | what |\n|---|---|\n" + "".join(f"| `{name}` | text |\n" for name in names)


class ReadmeTables(unittest.TestCase):

    def test_a_row_for_each_file(self):
        self.assertEqual(complaints_about({"index/a.h": "", "index/a.cc": "", "index/README.md": table("a.h")}), [])
        self.assertEqual(complaints_about({"index/a.h": "", "index/b.cc": "", "index/README.md": table("a.h")}),
                         ["index/README.md: no row for b.cc"])

    def test_no_row_for_a_missing_file(self):
        self.assertEqual(complaints_about({"index/a.h": "", "index/README.md": table("a.h", "gone.h")}),
                         ["index/README.md: a row for gone.h, which is not there"])

    def test_a_folder_without_readme(self):
        self.assertEqual(complaints_about({"p2p/a.h": ""}), ["p2p/README.md: missing"])

    def test_files_further_down(self):
        self.assertEqual(complaints_about({"api/sluice/v1/a.proto": "", "api/README.md": table("x")}),
                         ["api/README.md: no row for sluice/v1/a.proto",
                          "api/README.md: a row for x, which is not there"])
        self.assertEqual(complaints_about({"api/sluice/v1/a.proto": "", "api/README.md": table("sluice/")}), [])

    def test_an_inner_folder_with_a_table_of_its_own(self):
        files = {"api/inner/a.h": "", "api/inner/README.md": table("b.h"),
                 "api/main.cc": "", "api/README.md": table("main.cc")}
        self.assertEqual(complaints_about(files),
                         ["api/inner/README.md: no row for a.h",
                          "api/inner/README.md: a row for b.h, which is not there"])

    def test_short_names(self):
        files = {"api/a.h": "", "api/a.cc": ""}
        self.assertEqual(complaints_about(files | {"api/README.md": table("a.{h,cc}")}), [])
        self.assertEqual(complaints_about(files | {"api/README.md": table("a.h`, `.cc")}), [])
        self.assertEqual(complaints_about(files | {"api/README.md": table("a.{h,c}")}),
                         ["api/README.md: a row for a.c, which is not there"])


if __name__ == "__main__":
    unittest.main()
