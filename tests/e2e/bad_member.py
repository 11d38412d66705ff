#!/usr/bin/env python3
"""Listens as a Sluice node that has every blob, and sends wrong bytes for all that it is asked by range.

usage: bad_member.py HOST PORT DIGEST=SIZE...     (prints "ready", then a line per answer with wrong bytes)
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIZES = dict(argument.split("=") for argument in sys.argv[3:])


class Member(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        digest = self.path.split("?")[0].rsplit("/", 1)[-1]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if "/blobs/" not in self.path or digest not in SIZES or not wanted:
            self.send_response(404)
            self.send_header("Sluice-Node", "bad")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = int(wanted[1]), int(wanted[2])
        self.send_response(206)
        self.send_header("Sluice-Node", "bad")
        self.send_header("Content-Range", f"bytes {first}-{last}/{SIZES[digest]}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        print(f"wrong {digest} {first} {last}\n", end="", flush=True)
        self.wfile.write(b"\xa5" * (last - first + 1))

    def log_message(self, *arguments):
        pass


def main():
    server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Member)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
