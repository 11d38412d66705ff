#!/usr/bin/env python3
"""Vectors of what nodes say to each other beside members and chunks, made apart from the codecs of p2p/cluster and
node/daemon.

usage: route_vectors.py            prints the vectors, as JSON
       route_vectors.py --check F  fails unless they are what the file holds

Each part is a list of texts, each with what is read of it ("read"), or null if it is refused: "announcements" (POST
/sluice/v1/holders), "holders" and "shares" (the answers to its GET), "presence" (the answer of /sluice/v1/presence, of a
blob of "chunks"), "starts" (POST /sluice/v1/profiles), "kept" (the answer to its GET), "hints" ("hint" of POST
/sluice/v1/hints). "questions" are blobs, and the path and query by which each is asked for.
"""

import base64
import json
import sys

from vectors_file import print_or_check

MIB = 1 << 20
CHUNK = 256 << 10


def digest(letter):
    return "sha256:" + letter * 64


def blob(letter="a", size=MIB, chunk=CHUNK, root="b"):
    return {"digest": digest(letter), "size": size, "chunk": chunk, "root": digest(root)}


def without(entry, field):
    return {key: value for key, value in entry.items() if key != field}


def vectors_of(good, bad):
    return [{"text": text, "read": read} for text, read in good] + [{"text": text, "read": None} for text in bad]


NO_OBJECTS = ["", "null", "[]", "7", "{", '{"a":1}x', "<html>It works!</html>", "{}"]


def announcement_vectors():
    whole = blob() | {"whole": True}
    part = blob("c", 10 * MIB + 1, MIB) | {"whole": False, "present": 3 * MIB}
    gone = blob("d")

    def said(holder="node-a", held=(), left=()):
        return {"holder": holder, "held": list(held), "gone": list(left)}

    def read(holder="node-a", held=(), left=()):
        return {"holder": holder, "held": [{"present": 0} | entry for entry in held], "gone": list(left)}

    cannot_be = [blob(size=0), blob(chunk=CHUNK + 1), blob(chunk=0), blob(chunk=2**32 + CHUNK), blob(size=-1),
                 blob(size="1"), blob() | {"digest": "sha256:" + "A" * 64}, blob() | {"digest": "md5:" + "a" * 64},
                 blob() | {"root": ""}, *(without(blob(), field) for field in blob()), 7, None, [], {}]
    good = [
        (json.dumps(said(held=[whole, part], left=[gone])), read(held=[whole, part], left=[gone])),
        (json.dumps(said()), read()),
        (json.dumps({"holder": "node-a"}), read()),
        (json.dumps(said("x" * 253)), read("x" * 253)),
        (json.dumps(said(held=[whole | {"later": [1]}]) | {"later": {}}), read(held=[whole])),
        # Who does not say that it has all has a part, of which nothing is known.
        (json.dumps(said(held=[blob()])), read(held=[blob() | {"whole": False}])),
        (json.dumps(said(held=[blob() | {"whole": 1, "present": -1}])), read(held=[blob() | {"whole": False}])),
        (json.dumps(said(held=[*cannot_be, whole], left=[*cannot_be, gone])), read(held=[whole], left=[gone])),
    ]
    bad = [*NO_OBJECTS, *(json.dumps(said(holder)) for holder in ("", "x" * 254, 1, None)),
           json.dumps(without(said(), "holder")), json.dumps(said() | {"held": {}}), json.dumps(said() | {"gone": "d"})]
    return vectors_of(good, bad)


def holder_vectors():
    many = [f"node-{i}" for i in range(60)]
    good = [
        (json.dumps({"holders": []}), []),
        (json.dumps({"holders": ["b", "a"], "later": 1}), ["b", "a"]),
        (json.dumps({"holders": many}), many[:50]),
    ]
    return vectors_of(good, [*NO_OBJECTS, '{"holders":"a"}', '{"holders":{}}', '{"holders":[1]}', '{"holders":["a",""]}',
                             json.dumps({"holders": ["x" * 254]})])


def share_vectors():
    good = [
        (json.dumps({"holders": ["a", "b"], "present": [2**64 - 1, 0]}), [["a", 2**64 - 1], ["b", 0]]),
        (json.dumps({"holders": ["a"], "present": [1, 2]}), [["a", 1]]),
        (json.dumps({"holders": [], "present": []}), []),
    ]
    return vectors_of(good, [*NO_OBJECTS, '{"holders":["a"]}', '{"holders":["a"],"present":[]}',
                             '{"holders":["a"],"present":["1"]}', '{"holders":["a"],"present":[-1]}',
                             '{"holders":["a"],"present":{"0":1}}'])


def presence_vectors():
    def bits(count, present):
        mask = bytearray((count + 7) // 8)
        for chunk in present:
            mask[chunk // 8] |= 1 << chunk % 8
        return bytes(mask)

    def text(mask):
        return json.dumps({"present": base64.b64encode(mask).decode()})

    def vector(count, present, body=None):
        return {"chunks": count, "text": body or text(bits(count, present)), "read": present}

    every_third = list(range(0, 1000, 3))
    good = [vector(1, [0]), vector(1, []), vector(8, [7]), vector(9, [0, 8]), vector(64, list(range(64))),
            vector(65, [63, 64]), vector(1000, every_third),
            vector(4, [1], json.dumps({"present": base64.b64encode(bits(4, [1])).decode(), "later": None})),
            # What stands behind the last chunk is nobody's.
            vector(4, [0, 1, 2, 3], text(b"\xff")), vector(65, [64], text(bytes(8) + b"\xff"))]
    bad = [(9, text(bits(8, [0]))), (8, text(bits(9, [0]))), (8, '{"present":"%%"}'), (8, '{"present":1}'),
           (8, '{"present":""}'), *((8, body) for body in NO_OBJECTS)]
    return good + [{"chunks": count, "text": body, "read": None} for count, body in bad]


def profile(**more):
    return {"version": 1, "runs": 1, "spans": [[0, 0, 1, 0, 255], [1, 7, 3, 1200, 128]], "blind": [2, 5]} | more


def profiles_that_are_none():
    spans = [[0, 0, 1, 0], [0, 0, 1, 0, 255, 0], [0, 0, 0, 0, 255], [0, 0, 1, 0, 256], [0, 0, 1, 2**32, 255],
             [0, -1, 1, 0, 255], [0, "0", 1, 0, 255], [0, 65535, 2, 0, 255], [0, 65536, 1, 0, 255], {}, 7, None]
    return [profile(version=2), profile(version="1"), without(profile(), "version"), profile(runs=0), profile(runs=-1),
            without(profile(), "runs"), without(profile(), "spans"), profile(spans={}), profile(blind=[5, 2]),
            profile(blind=[-1]), profile(blind={}), *(profile(spans=[span]) for span in spans)]


def start_vectors():
    told = {"manifest": digest("e"), "recorder": "node-a", "number": 2**64 - 1, "public": True}
    read = profile() | told
    good = [
        (json.dumps(read), read),
        (json.dumps(read | {"later": 1}), read),
        (json.dumps(read | {"public": 1}), read | {"public": False}),
        (json.dumps(without(read, "public")), read | {"public": False}),
        (json.dumps(without(read, "blind")), read | {"blind": []}),
        (json.dumps(read | {"spans": []}), read | {"spans": []}),
    ]
    bad = [*NO_OBJECTS, *(json.dumps(wrong | told) for wrong in profiles_that_are_none()), json.dumps(read | {"runs": 2}),
           *(json.dumps(without(read, field)) for field in ("manifest", "recorder", "number")),
           *(json.dumps(read | {"recorder": name}) for name in ("", "x" * 254, 1)),
           *(json.dumps(read | {"number": number}) for number in (-1, 1.5, "1")), json.dumps(read | {"manifest": "e"})]
    return vectors_of(good, bad)


def kept_vectors():
    told = {"manifest": digest("e"), "public": False, "recorders": [["node-a", 1], ["node-b", 2**64 - 1]]}
    read = profile(runs=2**32 - 1) | told
    good = [
        (json.dumps(read), read),
        (json.dumps(without(read, "recorders")), read | {"recorders": []}),
        (json.dumps(read | {"public": True, "later": {}}), read | {"public": True}),
    ]
    bad = [*NO_OBJECTS, *(json.dumps(wrong | told) for wrong in profiles_that_are_none()),
           *(json.dumps(read | {"recorders": wrong})
             for wrong in ({}, [["node-a"]], [["", 1]], [["node-a", -1]], [["node-a", 1, 2]], [["n", 1]] * 65))]
    return vectors_of(good, bad)


def hint_vectors():
    least = {"id": "h-1", "reference": "registry.example/a/b:1", "priority": 0, "scheduler": "", "pin": False,
             "taken": 1764200000000}
    of_parts = least | {"ranges": [[digest("a"), 0, 1], [digest("a"), 4096, 2**40]]}
    more = of_parts | {"priority": -100, "scheduler": "kube:a.b_c-d", "pin": True, "ttl": 60 * 10**9,
                       "neededBy": 1764200000123456789,
                       "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    of_a_blob = least | {"blob": [digest("c"), 12345]}
    good = [(json.dumps(hint), hint) for hint in (least, of_parts, more, of_a_blob, least | {"profile": True},
                                                  least | {"targets": ["node-a", "node-b"]})]
    good.append((json.dumps(least | {"later": [1]}), least))
    wrong = [{"id": ""}, {"id": "a b"}, {"id": 1}, {"priority": 2**31}, {"priority": "1"}, {"scheduler": "a\n"},
             {"pin": 1}, {"taken": "now"}, {"ttl": 0}, {"ttl": -1}, {"platform": {"os": "linux"}}, {"platform": "linux"},
             {"ranges": [[digest("a"), 0, 0]]}, {"ranges": [[digest("a"), 2**64 - 1, 2]]}, {"ranges": [["a", 0, 1]]},
             {"ranges": [[digest("a"), 0]]}, {"profile": True, "ranges": of_parts["ranges"]},
             {"profile": True, "blob": of_a_blob["blob"]}, {"blob": ["c", 1]}, {"blob": [digest("c")]},
             {"targets": "node-a"}, {"targets": [1]},
             # Numbers that are none of their kind.
             {"priority": 2**32}, {"priority": 0.5}, {"taken": 2**63}, {"taken": 2**62}, {"taken": -(2**62)}, {"taken": 1.5}, {"ttl": 2**64 - 1}, {"ttl": 1.5},
             {"neededBy": 2**63}, {"blob": [digest("c"), -1]}, {"blob": [digest("c"), 1.5]},
             {"ranges": [[digest("a"), -4096, 1]]}, {"ranges": [[digest("a"), 0, 1.5]]}, {"profile": 1},
             {"hadCredentials": "no"}]
    bad = [*NO_OBJECTS, *(json.dumps(without(least, field)) for field in least),
           *(json.dumps(least | fields) for fields in wrong)]
    return vectors_of(good, bad)


def question_vectors():
    asked = [blob(), blob("c", 10 * MIB + 1, MIB, "d")]
    return [entry | {
        "holders": f"digest={entry['digest']}&size={entry['size']}&chunk={entry['chunk']}&root={entry['root']}",
        "presence": f"/sluice/v1/presence/{entry['digest']}?size={entry['size']}&chunk={entry['chunk']}"
                    f"&root={entry['root']}"} for entry in asked]


def main():
    vectors = {"announcements": announcement_vectors(), "holders": holder_vectors(), "shares": share_vectors(),
               "presence": presence_vectors(), "starts": start_vectors(), "kept": kept_vectors(),
               "hints": hint_vectors(), "questions": question_vectors()}
    lines = "{\n" + ",\n".join(f" {json.dumps(part)}: [\n" + ",\n".join(f"  {json.dumps(each)}" for each in entries) + "\n ]"
                               for part, entries in vectors.items()) + "\n}\n"
    return print_or_check(lines)


if __name__ == "__main__":
    sys.exit(main())
