#!/usr/bin/env python3
"""Twenty vectors of the assignment, computed apart from p2p/cluster/assignment.cc: by sorting, with fractions.

usage: assignment_vectors.py            prints the vectors
       assignment_vectors.py --check F  fails unless they are what the file holds

A line is one vector: digest, size of the blob, members (a comma list, or PREFIX*COUNT for PREFIX0 and so on), the
positions in the order of names of ranks 1 to 3 of each stripe ("home.second.third", comma list), and of the
first eight of the blob's own ranks.
"""

import hashlib
import sys
from fractions import Fraction

from vectors_file import print_or_check

MAJOR = 1
BITS = 2**64
KI, MI = 1024, 1024 * 1024


def mix(x):
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) % BITS
    return x ^ (x >> 31)


def key(data):
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def stripes_of(size):
    stripe = 256 * KI
    while stripe < 4 * MI and 2 * stripe <= size // 64:
        stripe *= 2
    return max(1, -(-size // stripe))


def assign(digest, size, names):
    """The members' names by rank: a list for each stripe, and that of the blob."""
    blob = key(bytes([MAJOR]) + bytes.fromhex(digest))
    own = {name: mix(mix(blob) ^ key(name.encode())) for name in names}
    stripes = stripes_of(size)
    x = Fraction(5, 4) * stripes / len(names)
    cap = {
        name: 1 if x < 1 else int(x) + (Fraction(own[name], BITS) < x - int(x)) for name in names
    }
    load = dict.fromkeys(names, 0)
    ranks = []
    for stripe in range(stripes):
        seed = mix((blob + 0x9E3779B97F4A7C15 * (stripe + 1)) % BITS)
        by_score = sorted(names, key=lambda name: (-mix(seed ^ key(name.encode())), name.encode()))
        free = [name for name in by_score if load[name] < cap[name]]
        if not free:
            least = min(load.values())
            free = [name for name in by_score if load[name] == least]
        home = free[0]
        load[home] += 1
        ranks.append([home] + [name for name in by_score if name != home][:2])
    return ranks, sorted(names, key=lambda name: (-own[name], name.encode()))


CASES = [
    ("", 1, "alone"),
    ("a", 256 * KI, "node-a,node-b"),
    ("b", 256 * KI + 1, "node-a,node-b"),
    ("c", 5 * 256 * KI, "node-a,node-b,node-c,node-d"),
    ("d", 16 * MI, "10.0.0.1:5000,10.0.0.2:5000,[fd00::1]:5000"),
    ("e", 32 * MI - 1, "node-*8"),
    ("f", 32 * MI, "node-*8"),
    ("g", 100 * MI, "node-*9"),
    ("h", 100 * MI + 12345, "node-*16"),
    ("i", 256 * MI, "node-*16"),
    ("j", 256 * MI, "node-*27"),
    ("k", 256 * MI, "node-*80"),
    ("l", 256 * MI, "node-*79"),
    ("m", 320 * MI, "node-*100"),
    ("n", 1024 * MI, "node-*8"),
    ("o", 1024 * MI, "node-*320"),
    ("p", 1024 * MI, "node-*319"),
    ("q", 256 * KI, "node-*1000"),
    ("r", 256 * MI, "node-*1000"),
    ("s", 4096 * MI, "ip-10-0-0-*1000"),
]


def members_of(text):
    if "*" not in text:
        return text.split(",")
    prefix, count = text.split("*")
    return [f"{prefix}{i}" for i in range(int(count))]


def lines():
    for seed, size, members in CASES:
        digest = hashlib.sha256(seed.encode()).hexdigest()
        names = sorted(members_of(members), key=lambda name: name.encode())
        position = {name: i for i, name in enumerate(names)}
        ranks, own = assign(digest, size, names)
        texts = [".".join(str(position[name]) for name in stripe) for stripe in ranks]
        yield " ".join(
            [
                "sha256:" + digest,
                str(size),
                members,
                ",".join(texts),
                ",".join(str(position[name]) for name in own[:8]),
            ]
        )


def main():
    return print_or_check("".join(line + "\n" for line in lines()))


if __name__ == "__main__":
    sys.exit(main())
