#!/usr/bin/env python3
"""Stands before a registry and asks everybody for a token, which everybody gets, without a password.

usage: token_registry.py LISTEN_HOST:PORT REGISTRY_HOST:PORT

Each request is a line on standard output, as docker-registry's access log has it.
"""

import http.client
import http.server
import itertools
import json
import sys
import threading

LISTEN, REGISTRY = sys.argv[1:]
# Names of headers that are each connection's own.
HOP_HEADERS = ("connection", "transfer-encoding", "date", "server", "authorization")


class Gate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens = set()
    numbers = itertools.count(1)
    lock = threading.Lock()

    def do_GET(self):
        if self.path.startswith("/token"):
            self.answer(200, {"Content-Type": "application/json"},
                        json.dumps({"token": self.new_token(), "expires_in": 300}).encode())
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") in self.tokens:
            self.forward()
        else:
            repository = self.path.removeprefix("/v2/").rsplit("/", 2)[0]
            challenge = f'Bearer realm="http://{LISTEN}/token",service="{LISTEN}",scope="repository:{repository}:pull"'
            self.answer(401, {"WWW-Authenticate": challenge}, b"")

    do_HEAD = do_GET

    def new_token(self):
        with self.lock:
            token = f"anybody-{next(self.numbers)}"
            self.tokens.add(token)
        return token

    def answer(self, status, headers, body):
        self.say(status, len(body))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def forward(self):
        registry = http.client.HTTPConnection(REGISTRY)
        try:
            registry.request(self.command, self.path,
                             headers={name: value for name, value in self.headers.items()
                                      if name.lower() not in HOP_HEADERS})
            answer = registry.getresponse()
            self.say(answer.status, answer.length or 0)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            self.end_headers()
            while self.command != "HEAD" and (piece := answer.read(1 << 18)):
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True
        finally:
            registry.close()

    def say(self, status, size):
        print(f'{self.client_address[0]} - - "{self.command} {self.path} HTTP/1.1" {status} {size} ""', flush=True)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    host, port = LISTEN.rsplit(":", 1)
    Server((host, int(port)), Gate).serve_forever()
