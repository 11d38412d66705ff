#!/usr/bin/env python3
"""Stands before a registry, and answers nothing for as long as it is told to.

usage: stalling_proxy.py REGISTRY STALL_FILE

Listens on loopback and prints its port. While STALL_FILE is there, requests whose path holds one of the texts in
it, one to a line, are read and not answered.
"""

import http.client
import http.server
import os
import sys
import time

REGISTRY, STALL_FILE = sys.argv[1:]


def stalled(path):
    try:
        with open(STALL_FILE) as lines:
            return any(text.strip() in path for text in lines if text.strip())
    except FileNotFoundError:
        return False


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        while stalled(self.path):
            time.sleep(0.1)
        origin = http.client.HTTPConnection(REGISTRY)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        try:
            origin.request(self.command, self.path, headers=headers)
            answer = origin.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            while self.command != "HEAD" and (piece := answer.read(1 << 18)):
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True
        finally:
            origin.close()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Proxy)
    print(server.server_port, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        os._exit(0)
