#!/usr/bin/env python3
"""Stands before a registry and asks everybody for a token, which everybody gets, without a password; but one for a
repository that is somebody's only who shows his password.

usage: token_registry.py LISTEN_HOST:PORT REGISTRY_HOST:PORT [REPOSITORY=USER:PASSWORD...]

Each request is a line on standard output, as docker-registry's access log has it.
"""

import base64
import http.client
import http.server
import itertools
import json
import sys
import threading
import urllib.parse

LISTEN, REGISTRY = sys.argv[1:3]
# Who may pull from what is not everybody's.
OWNERS = {}
for owned in sys.argv[3:]:
    OWNERS.setdefault(owned.partition("=")[0], []).append(owned.partition("=")[2])
# Names of headers that are each connection's own.
HOP_HEADERS = ("connection", "transfer-encoding", "date", "server", "authorization")


class Gate(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens = {}  # to the repository that each is for
    numbers = itertools.count(1)
    lock = threading.Lock()

    def do_GET(self):
        if self.path.startswith("/token"):
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            repository = query.get("scope", [""])[0].removeprefix("repository:").rpartition(":")[0]
            if not self.may_pull(repository):
                return self.answer(401, {}, b"")
            return self.answer(200, {"Content-Type": "application/json"},
                               json.dumps({"token": self.new_token(repository), "expires_in": 300}).encode())
        repository = urllib.parse.urlsplit(self.path).path.removeprefix("/v2/").rsplit("/", 2)[0]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.tokens and (repository not in OWNERS or self.tokens[token] == repository):
            self.forward()
        else:
            challenge = f'Bearer realm="http://{LISTEN}/token",service="{LISTEN}",scope="repository:{repository}:pull"'
            self.answer(401, {"WWW-Authenticate": challenge}, b"")

    do_HEAD = do_GET

    def do_POST(self):
        self.close_connection = True
        self.answer(405, {}, b"")

    def may_pull(self, repository):
        if repository not in OWNERS:
            return True
        shown = self.headers.get("Authorization", "").removeprefix("Basic ")
        try:
            return base64.b64decode(shown).decode() in OWNERS[repository]
        except ValueError:
            return False

    def new_token(self, repository):
        """As token servers give them: it says what it is good for."""
        access = [{"type": "repository", "name": repository, "actions": ["pull"]}]
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                 for part in ({"alg": "none"}, {"access": access})]
        with self.lock:
            token = ".".join([*parts, f"anybody-{next(self.numbers)}"])
            self.tokens[token] = repository
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
        line = f'{self.client_address[0]} - - "{self.command} {self.path} HTTP/1.1" {status} {size} ""\n'
        # At once, with its end: others write beside.
        print(line, end="", flush=True)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    host, port = LISTEN.rsplit(":", 1)
    Server((host, int(port)), Gate).serve_forever()
