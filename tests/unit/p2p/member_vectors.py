#!/usr/bin/env python3
"""Vectors of what nodes say to each other of members, made apart from p2p/cluster/member_codec.cc.

usage: member_vectors.py            prints the vectors, as JSON
       member_vectors.py --check F  fails unless they are what the file holds

"hashes": rows, and the text of `since` of a node that has them; "rows": texts of Sluice-Member, and the row that is
read, or null; "answers": texts of an answer, and what is read of it, or null.
"""

import hashlib
import json
import sys

from vectors_file import print_or_check

BUCKETS = 32


def key(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def row(name, addresses, start, zone="", protocol=1):
    return {"name": name, "addresses": addresses, "zone": zone, "protocol": protocol, "start": start}


def since(rows):
    hashes = [0] * BUCKETS
    for entry in rows:
        text = "\n".join([entry["name"], entry["zone"], str(entry["protocol"]), str(entry["start"]), *entry["addresses"]])
        hashes[key(entry["name"]) % BUCKETS] ^= key(text) >> 32
    return "".join(f"{value:08x}" for value in hashes)


def text(entry, **more):
    short = {field: value for field, value in entry.items() if field != "zone" or value}
    return json.dumps(short | more)


A = row("node-a", ["10.0.0.1:7301"], 1764200000000)
B = row("node-b", ["10.0.0.2:7301", "[fd00::2]:7301"], 1764200000001, "eu-1")
LARGEST = row("x" * 253, ["10.0.0.3:65535"], 2**64 - 1, "z" * 63, 2**32 - 1)
ALIKE = row("node-a", ["10.0.0.1:7301"], 1764200000001)


def hash_vectors():
    many = [row(f"node-{i}", [f"10.0.1.{i}:7301"], i + 1) for i in range(100)]
    sets = [[A], [A, B], [B, A], [ALIKE], [A, B, LARGEST], many]
    return [{"rows": rows, "since": since(rows)} for rows in sets]


def row_vectors():
    good = [
        (text(A), A),
        (text(B), B),
        (text(LARGEST), LARGEST),
        (text(A, later_field={"deep": [1, 2]}), A),
        (text(A | {"addresses": []}), A | {"addresses": []}),
        (text(A | {"addresses": ["[FD00:0::0001]:7301"]}), A | {"addresses": ["[fd00::1]:7301"]}),
        (text(A | {"protocol": 2}), A | {"protocol": 2}),
        (text(A | {"start": 0}), A | {"start": 0}),
    ]
    nine = [f"10.0.0.{i}:1" for i in range(1, 10)]
    bad = [
        "",
        "null",
        "[]",
        "{}",
        text(A)[:-1],
        text(A) + "x",
        *(text({field: value for field, value in A.items() if field != left_out}) for left_out in A if left_out != "zone"),
        *(text(A | {"name": name}) for name in ("", "a b", "a\n", "\u00e9", "x" * 254, 1, None)),
        *(text(A | {"zone": zone}) for zone in ("a b", "z" * 64)),
        *(text(A | {"start": start}) for start in (-1, 1.5, "1", 2**64)),
        *(text(A | {"protocol": protocol}) for protocol in (-1, "1", 2**32)),
        *(text(A | {"addresses": addresses}) for addresses in (
            "10.0.0.1:7301", [1], ["node:7301"], ["10.0.0.1"], ["10.0.0.1:0"], ["10.0.0.1:65536"], ["fd00::1:7301"],
            ["10.0.0.2:1", "10.0.0.1:1"], ["10.0.0.1:1", "10.0.0.1:1"], nine)),
    ]
    return [{"text": t, "row": r} for t, r in good] + [{"text": t, "row": None} for t in bad]


def answer_vectors():
    def answer(body, self, rows=(), ages=()):
        return {"text": body, "read": {"self": self, "rows": list(rows), "ages": list(ages)}}

    told = {"self": A, "rows": [B | {"age": 3}, LARGEST | {"age": 0}], "ages": [["node-c", 5, 7]]}
    full = answer(json.dumps(told), "node-a", [["node-b", 3], ["x" * 253, 0]], [["node-c", 5, 7]])
    wrong_rows = [B, B | {"age": -1}, B | {"age": 1.5}, B | {"age": "3"}, B | {"age": 1000001}, B | {"name": "", "age": 1}, 7, None]
    wrong_ages = [["node-c", 5], ["node-c", -5, 7], [1, 5, 7], ["node-c", 5, -7], ["node-c", 5, 7, 9], {}, None]
    good = [
        answer(json.dumps({"self": A}), "node-a"),
        full,
        answer(json.dumps(told | {"later": [{}]}), "node-a", full["read"]["rows"], full["read"]["ages"]),
        answer(json.dumps({"self": A, "rows": {}, "ages": 1}), "node-a"),
        answer(json.dumps({"self": A, "rows": [*wrong_rows, B | {"age": 1000000}], "ages": [*wrong_ages, ["node-d", 0, 0]]}),
               "node-a", [["node-b", 1000000]], [["node-d", 0, 0]]),
    ]
    bad = ["", "<html>It works!</html>", "[]", "{}", json.dumps({"rows": [B | {"age": 3}]}), json.dumps({"self": {}}),
           json.dumps({"self": A | {"name": ""}}), json.dumps(told)[:-2]]
    return good + [{"text": t, "read": None} for t in bad]


def main():
    vectors = {"hashes": hash_vectors(), "rows": row_vectors(), "answers": answer_vectors()}
    lines = json.dumps(vectors, indent=1) + "\n"
    return print_or_check(lines)


if __name__ == "__main__":
    sys.exit(main())
