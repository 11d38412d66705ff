#!/usr/bin/env python3
"""A member by name, and so the home of its share of each blob, that gives nothing right.

usage: lying_member.py NAME ADDRESS WAY_FILE     (prints "ready", then a line per chunk: who asks for it, the way, its place)

What it does is read from the file each time that it is asked for a chunk:
  verified   wrong bytes, as verified under the asker's own root
  length     bytes of a blob of another length
  short      a right head, and the connection ends in the midst of the bytes
  NAME       wrong bytes that it says it had from the member of that name
"""

import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, ADDRESS, WAY_FILE = sys.argv[1:4]
ROW = {"name": NAME, "addresses": [ADDRESS], "protocol": 1, "start": int(time.time() * 1000)}


def way():
    with open(WAY_FILE, encoding="ascii") as file:
        return file.read().strip()


class Member(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {"Sluice-Node": "liar", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/sluice/v1/members"):
            body = json.dumps({"self": ROW, "rows": [], "ages": []}).encode()
            return self.answer(200, {"Content-Type": "application/json"}, body)
        claim = dict(re.findall(r"(\w+)=([^;\s]+)", self.headers.get("Sluice-Blob", "")))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if "/blobs/" not in self.path or "size" not in claim or not wanted:
            return self.answer(404, {})
        return self.answer_chunk(int(wanted[1]), int(wanted[2]), claim)

    def answer_chunk(self, first, last, claim):
        told = way()
        print(f"{self.client_address[0]} {told} {first}\n", end="", flush=True)
        length = last - first + 1
        size = int(claim["size"]) + (4096 if told == "length" else 0)
        headers = {"Content-Range": f"bytes {first}-{last}/{size}", "Content-Length": str(length)}
        if told == "verified":
            headers["Sluice-Verified"] = claim["root"]
        elif told not in ("length", "short"):
            headers["Sluice-Passed-On"] = told
        self.answer(206, headers, b"\xa5" * (length // 2 if told == "short" else length))
        if told == "short":
            self.close_connection = True

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.answer(204, {})

    def log_message(self, *arguments):
        pass


def main():
    host, port = ADDRESS.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Member)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
