#!/usr/bin/env python3
"""A BitTorrent peer that says what no peer should, to one node.

usage: hostile_peer.py FROM_ADDRESS ADDRESS PORT INFO_HASH_HEX CHUNK_COUNT

INFO_HASH_HEX are the 40 digits of the truncated v2 info-hash. Exits with 1, and says why, if the node did not end a
connection that it had to end. What becomes of the node is for the caller to see.
"""

import os
import socket
import struct
import sys
import time

FROM, ADDRESS, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
INFO_HASH, CHUNKS = bytes.fromhex(sys.argv[4]), int(sys.argv[5])
PROTOCOL = b"\x13BitTorrent protocol"
RESERVED = bytes([0, 0, 0, 0, 0, 0x10, 0, 0x14])  # extensions, fast, v2
BITFIELD, HAVE, REQUEST, PIECE, CANCEL, REJECT, ALLOWED_FAST = 5, 4, 6, 7, 8, 16, 17
EXTENDED, HASH_REQUEST, HASHES, HASH_REJECT = 20, 21, 22, 23


def connect():
    """A connection, once the node takes one: it has one per address, and the last may still be closing."""
    end = time.monotonic() + 20
    while True:
        sock = socket.socket()
        sock.bind((FROM, 0))
        sock.settimeout(5)
        try:
            sock.connect((ADDRESS, PORT))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def handshake():
    """A connection past its handshake."""
    end = time.monotonic() + 20
    while True:
        sock = connect()
        try:
            sock.sendall(PROTOCOL + RESERVED + INFO_HASH + b"-XX0000-" + os.urandom(12))
            answer = b""
            while len(answer) < 68:
                got = sock.recv(68 - len(answer))
                if not got:
                    raise ConnectionError("refused")
                answer += got
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def message(kind, payload=b""):
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def hash_message(kind, root, base, index, count, proofs, hashes=b""):
    return message(kind, root + struct.pack(">IIII", base, index, count, proofs) + hashes)


def ends(sock, seconds=10):
    """Whether the node closes the connection within the time, whatever it says before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.settimeout(max(0.01, end - time.monotonic()))
        try:
            if not sock.recv(1 << 16):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def send(sock, data):
    try:
        sock.sendall(data)
    except OSError:
        pass


def main():
    failures = []

    def must_end(name, sock, data):
        send(sock, data)
        if not ends(sock):
            failures.append(name)
        sock.close()

    zero = bytes(32)
    for base, index, count, proofs in ((0, 0, 1, 0), (0, 0, 16, 0), (0, 0, 2, 3), (0, 8, 8, 3)):
        must_end("hashes under a zero root", handshake(),
                 hash_message(HASHES, zero, base, index, count, proofs, b"\x11" * 32 * (count + proofs)))
        must_end("a hash request for a zero root", handshake(),
                 hash_message(HASH_REQUEST, zero, base, index, count, proofs))
    must_end("a hash reject", handshake(), hash_message(HASH_REJECT, zero, 0, 0, 16, 0))
    must_end("hash requests without end", handshake(),
             b"".join(hash_message(HASH_REQUEST, os.urandom(32), 4, 0, 512, 8) for _ in range(2000)))
    for length in (0x7fffffff, 0xffffffff, 0x80000000, 2 << 20, (1 << 20) + 1):
        must_end(f"a message of {length} bytes", handshake(),
                 struct.pack(">IB", length, EXTENDED) + b"x" * 4096)
    must_end("a bitfield that is too short", handshake(), message(BITFIELD, b""))
    must_end("a bitfield that is too long", handshake(), message(BITFIELD, b"\xff" * 4096))
    must_end("have of a piece that is none", handshake(), message(HAVE, struct.pack(">I", CHUNKS + 5)))
    must_end("have of a negative piece", handshake(), message(HAVE, struct.pack(">i", -1)))
    must_end("another protocol", connect(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 4096)
    must_end("an unknown info-hash", connect(), PROTOCOL + RESERVED + bytes(20) + b"-XX0000-" + bytes(12))
    must_end("an encrypted handshake", connect(), os.urandom(600))

    # What a node may bear, or end, as it likes.
    every = bytes([0xff]) * (CHUNKS // 8) + (bytes([0xff << (8 - CHUNKS % 8) & 0xff]) if CHUNKS % 8 else b"")
    unasked = struct.pack(">II", 0, 0) + os.urandom(16384)
    for name, data in (
            ("requests out of bounds", b"".join(message(REQUEST, struct.pack(">III", piece, start, length))
                                                for piece in (0, CHUNKS, 0xffffffff)
                                                for start in (0, 1, 0x7fffffff, 0xffffffff)
                                                for length in (0, 16384, 131072, 0xffffffff))),
            ("pieces out of bounds", message(PIECE, struct.pack(">II", 0xffffffff, 0xffffffff) + bytes(16384)) * 5),
            ("cancels and rejects", message(CANCEL, struct.pack(">III", 9, 9, 9)) * 100 +
             message(REJECT, struct.pack(">III", 0, 0, 16384)) * 100),
            ("allowed fast", message(ALLOWED_FAST, struct.pack(">I", 0xffffffff)) * 100),
            ("an extended handshake of nonsense", message(EXTENDED, b"\x00d1:md11:lt_donthavei-1ee1:pi-5e4:reqqi-1ee")),
            ("noise", os.urandom(1 << 16)),
            # Last: some may have been asked for meanwhile, and then they are wrong.
            ("pieces nobody asked for", message(BITFIELD, every) + message(PIECE, unasked) * 50)):
        sock = handshake()
        send(sock, data)
        ends(sock, 0.3)
        sock.close()
        del name
    for failure in failures:
        print(f"not ended: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
