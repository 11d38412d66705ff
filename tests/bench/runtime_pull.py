#!/usr/bin/env python3
"""Pulls an ordinary image through a mirror with the requests that containerd makes, without unpacking it.

usage: runtime_pull.py --mirror HOST:PORT --ns REGISTRY --image REPOSITORY:TAG --go FILE

Says "ready", waits until --go is there, and pulls: the tag is resolved by HEAD, its manifest got by digest, then
configuration and layers, three at a time. What the mirror answers with 404 is asked of the registry. Prints when it had
all, in seconds since 1970, the bytes of blobs, how much was asked of the registry, and the longest time until an answer
of a blob began. Whatever is got must have its digest.
"""

import argparse
import concurrent.futures
import hashlib
import http.client
import json
import os
import sys
import time

MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
AT_A_TIME = 3
READ_BYTES = 256 << 10
TIMEOUT_SECONDS = 300
GO_SECONDS_MAX = 120


class Runtime:
    """One pull: of whom it asks, and what it has seen."""

    def __init__(self, mirror, registry):
        self.mirror, self.registry = mirror, registry
        self.sent_on, self.longest = 0, 0.0

    def ask(self, host, method, path, accept):
        connection = http.client.HTTPConnection(host, timeout=TIMEOUT_SECONDS)
        connection.request(method, path, headers={"Accept": accept, "User-Agent": "containerd/1.6.20"})
        answer = connection.getresponse()
        if answer.status not in (200, 404):
            raise OSError(f"{host}: {method} {path}: {answer.status} {answer.read(500).decode(errors='replace')}")
        return answer

    def get(self, method, path, accept="*/*"):
        answer = self.ask(self.mirror, method, f"{path}?ns={self.registry}", accept)
        if answer.status == 404:
            self.sent_on += 1
            answer = self.ask(self.registry, method, path, accept)
        if answer.status != 200:
            raise OSError(f"{method} {path}: {answer.status}")
        return answer

    def pull_blob(self, path, digest):
        started = time.monotonic()
        answer, taken, size = self.get("GET", path), hashlib.sha256(), 0
        self.longest = max(self.longest, time.monotonic() - started)
        while piece := answer.read(READ_BYTES):
            taken.update(piece)
            size += len(piece)
        if "sha256:" + taken.hexdigest() != digest:
            raise OSError(f"{path}: other bytes than those of the digest")
        return size

    def pull(self, image):
        repository, _, tag = image.rpartition(":")
        manifests, blobs = f"/v2/{repository}/manifests/", f"/v2/{repository}/blobs/"
        digest = self.get("HEAD", manifests + tag, MANIFESTS).getheader("Docker-Content-Digest")
        body = self.get("GET", manifests + digest, MANIFESTS).read()
        if "sha256:" + hashlib.sha256(body).hexdigest() != digest:
            raise OSError(f"{digest}: another manifest")
        manifest = json.loads(body)
        digests = [blob["digest"] for blob in [manifest["config"], *manifest["layers"]]]
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            return sum(pool.map(lambda each: self.pull_blob(blobs + each, each), digests))


def main():
    parser = argparse.ArgumentParser()
    for name in ("mirror", "ns", "image", "go"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    print("ready", flush=True)
    end = time.monotonic() + GO_SECONDS_MAX
    while not os.path.exists(args.go):
        if time.monotonic() > end:
            sys.exit("nobody says go")
        time.sleep(0.005)
    runtime = Runtime(args.mirror, args.ns)
    size = runtime.pull(args.image)
    print(f"{time.time():.6f} {size} {runtime.sent_on} {runtime.longest:.3f}", flush=True)


if __name__ == "__main__":
    main()
