#!/usr/bin/env python3
"""Times requests on one connection, one every so often.

usage: timed_requests.py --method GET|HEAD --url URL --count N [--every SECONDS]

Prints the median and the 99th percentile in seconds. Each must be answered with 200, and with the same Docker-Content-Digest.

As root it goes before everybody else who wants a processor, so that what is timed is what the server and the way to it
take, and not how long an answer that has come waits for this program to be given a processor.
"""

import argparse
import http.client
import os
import sys
import time
import urllib.parse


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("GET", "HEAD"), required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--every", type=float, default=0.01)
    args = parser.parse_args()

    if os.geteuid() == 0:
        os.nice(-20)
    url = urllib.parse.urlsplit(args.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    seconds, digests, due = [], set(), time.monotonic()
    for _ in range(args.count):
        time.sleep(max(0, due - time.monotonic()))
        due = time.monotonic() + args.every
        started = time.perf_counter()
        connection.request(args.method, f"{url.path}?{url.query}",
                           headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - started)
        digests.add(answer.getheader("Docker-Content-Digest"))
        if answer.status != 200 or len(digests) != 1:
            sys.exit(f"{args.method} {args.url}: {answer.status}, digests {digests}")
    print(f"{percentile(seconds, 0.5):.6f} {percentile(seconds, 0.99):.6f}")


if __name__ == "__main__":
    main()
