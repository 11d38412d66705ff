#!/usr/bin/env python3
"""Clients of a node that ask for a blob's bytes, and take in one byte a second.

usage: slow_clients.py ADDRESS PATH CLAIM SIZE CHUNK COUNT KIND...

Each kind has its share of them: `whole` asks for all of the blob; `demand` for one chunk as nodes do where a reader
waits, and `fill` where none does: two for each chunk, which is all that a node sends of one at once. Every second one
of a kind has buffers that hold next to nothing. Prints "asked", and how many have been answered 206, as soon as all
have an answer; then reads on until it is ended.
"""

import socket
import sys
import time

ADDRESS, PATH, CLAIM = sys.argv[1:4]
SIZE, CHUNK, COUNT = map(int, sys.argv[4:7])
KINDS = sys.argv[7:]


def request(kind, which):
    """The whole blob, or a chunk of it, for that one of the kind."""
    lines = [f"GET {PATH} HTTP/1.1", "Host: node"]
    first = which // 2 * CHUNK
    if kind == "whole":
        lines.append(f"Range: bytes=0-{SIZE - 1}")
    else:
        lines += ["Sluice-Role: present-only", f"Sluice-Blob: {CLAIM}", f"Sluice-Class: {kind}",
                  f"Range: bytes={first}-{min(first + CHUNK, SIZE) - 1}"]
    return "\r\n".join([*lines, "", ""]).encode()


def head(client):
    """The answer's head, byte by byte, so that no more is taken in."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            break
        got += byte
    return got


def main():
    host, port = ADDRESS.rsplit(":", 1)
    clients = []
    for number in range(COUNT):
        which, kind = divmod(number, len(KINDS))
        client = socket.socket()
        if which % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.settimeout(20)
        client.connect((host, int(port)))
        client.sendall(request(KINDS[kind], which))
        clients.append(client)
    print("asked", sum(head(client).startswith(b"HTTP/1.1 206 ") for client in clients), flush=True)
    for client in clients:
        client.setblocking(False)
    while True:
        for client in clients:
            try:
                client.recv(1)
            except OSError:
                pass
        time.sleep(1)


if __name__ == "__main__":
    main()
