#!/usr/bin/env python3
"""Says what a run of ctest came to: the end of each failed test's output, the tests run per label
with their time, and a line "N passed, N failed, N skipped".

Reads ctest's --show-only=json-v1 (which test carries which labels) from standard input and the JUnit report of
the run. Exits with 1 if anything failed, nothing ran, or something was skipped that must not be.
"""

import argparse
import collections
import json
import os
import sys
import xml.etree.ElementTree as ET

# Of a failed test's output, said again where a reader of a long log looks first: at its end.
OUTPUT_LINES_MAX = 30


def outcome(case):
    """passed, failed or skipped. A test whose program is missing was not run either, and that is a failure."""
    if case.get("status") == "run":
        return "passed"
    skipped = case.find("skipped")
    if skipped is not None and skipped.get("message", "").startswith("SKIP_"):
        return "skipped"
    return "failed"


def minutes(seconds):
    """As 2:05 min."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02} min"


def last_lines(case):
    output = case.findtext("system-out") or ""
    return output.rstrip().splitlines()[-OUTPUT_LINES_MAX:]


def labels_by_test(listing):
    labels = {}
    for test in listing["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        labels[test["name"]] = properties.get("LABELS", ["unlabelled"])
    return labels


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--junit", required=True)
    parser.add_argument("--ctest-status", type=int, required=True)
    parser.add_argument("--allow-skips", choices=["yes", "no"], required=True)
    args = parser.parse_args()

    labels = labels_by_test(json.load(sys.stdin))
    cases = ET.parse(args.junit).getroot().iter("testcase") if os.path.exists(args.junit) else []
    total, per_label, seconds = collections.Counter(), collections.Counter(), collections.Counter()
    for case in cases:
        result = outcome(case)
        total[result] += 1
        if result == "skipped":
            print(f"skipped: {case.get('name')}")
            continue
        if result == "failed":
            print(f"failed: {case.get('name')}")
            for line in last_lines(case):
                print(f"    {line}")
        for label in labels.get(case.get("name"), ["unlabelled"]):
            per_label[label] += 1
            seconds[label] += float(case.get("time") or 0)

    print("tests run per label:")
    for label, count in sorted(per_label.items()):
        print(f"  {label:12} {count:<5} {minutes(seconds[label]):>9}")

    ran = total["passed"] + total["failed"]
    bad = total["failed"] > 0 or args.ctest_status != 0
    if ran == 0:
        print("no test ran", file=sys.stderr)
        bad = True
    if total["skipped"] and args.allow_skips == "no":
        print("no test may be skipped here", file=sys.stderr)
        bad = True
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
