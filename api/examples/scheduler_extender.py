#!/usr/bin/env python3
"""A kube-scheduler extender: of the nodes that a pod may run on, those that have more of its images get a higher score.

    scheduler_extender.py --socket /run/sluice/prefetch.sock --listen 127.0.0.1:9466

/prioritize gives each node 0 to 10 by its share of the bytes of all images of the pod. /filter leaves all nodes, but with
--min-share only those that have that share, if there are such: a pod is never kept from running.

One node of Sluice is asked for the whole cluster (GetLocality with LOCALITY_SCOPE_CLUSTER), once for what pods have in
common, and its answer is good for 5 s. The names of members are those of the nodes in Kubernetes, as the chart has them.
What can't be told in time counts as nothing, for all nodes alike: nobody waits for it.
"""

import argparse
import http.server
import json
import sys
import threading
import time

import grpc

import sluice_stubs
from kubernetes_objects import images_of

messages, services, _ = sluice_stubs.load()

SCORE_MAX = 10  # of extenders
KEPT_SECONDS = 5.0
KEPT_MAX = 4096
CALL_SECONDS = 2.0
IMAGES_PER_CALL = 100
BODY_BYTES_MAX = 64 << 20


class Localities:
    """How much of images is where, as a node has told it within the last KEPT_SECONDS."""

    def __init__(self, stub):
        self.stub = stub
        self.lock = threading.Lock()
        self.known = {}  # by image: when, size, {node: bytes}

    def find(self, images):
        """Those of the images that are known, asked for where they are not: {image: (size, {node: bytes})}."""
        with self.lock:
            now = time.monotonic()
            missing = [image for image in images if image not in self.known or now - self.known[image][0] >= KEPT_SECONDS]
            for at in range(0, len(missing), IMAGES_PER_CALL):
                self.ask(missing[at:at + IMAGES_PER_CALL])
            return {image: self.known[image][1:] for image in images if image in self.known}

    def ask(self, images):
        if len(self.known) + len(images) > KEPT_MAX:
            self.known.clear()
        # What fails is not asked for again at once either: the scheduler has other pods.
        told = [(0, {})] * len(images)
        try:
            request = messages.GetLocalityRequest(references=images, scope=messages.LOCALITY_SCOPE_CLUSTER)
            answers = self.stub.GetLocality(request, timeout=CALL_SECONDS).images
            told = [(answer.total_bytes, {node.name: node.present_bytes for node in answer.nodes})
                    for answer in answers]
            for image, answer in zip(images, answers):
                if answer.HasField("error"):
                    print(f"{image}: {answer.error.message}", file=sys.stderr, flush=True)
        except grpc.RpcError as error:
            # One that is no reference is not to hide the others.
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT and len(images) > 1:
                for image in images:
                    self.ask([image])
                return
            print(f"the node does not tell: {error.details()}", file=sys.stderr, flush=True)
        now = time.monotonic()
        for image, (size, nodes) in zip(images, told):
            self.known[image] = (now, size, nodes)


def node_names(arguments):
    names = arguments.get("nodenames")
    if names is not None:
        return names
    return [node["metadata"]["name"] for node in (arguments.get("nodes") or {}).get("items") or []]


def shares(localities, arguments):
    """The part of the pod's images that each node has: {name: 0 to 1}."""
    found = localities.find(images_of(arguments.get("pod") or {}))
    total = sum(size for size, _ in found.values())
    present = {name: sum(nodes.get(name, 0) for _, nodes in found.values()) for name in node_names(arguments)}
    return {name: present[name] / total if total else 0.0 for name in present}


def prioritize(localities, arguments):
    return [{"host": name, "score": round(SCORE_MAX * share)} for name, share in shares(localities, arguments).items()]


def filter_nodes(localities, arguments, min_share):
    of_nodes = shares(localities, arguments)
    fit = {name for name, share in of_nodes.items() if share >= min_share} or set(of_nodes)
    result = {"failedNodes": {name: "other nodes have more of the pod's images" for name in of_nodes if name not in fit},
              "error": ""}
    if arguments.get("nodenames") is not None:
        result["nodenames"] = [name for name in of_nodes if name in fit]
    else:
        items = [node for node in arguments["nodes"]["items"] if node["metadata"]["name"] in fit]
        result["nodes"] = {**arguments["nodes"], "items": items}
    return result


def name_of(pod):
    metadata = pod.get("metadata") or {}
    return f'{metadata.get("namespace", "")}/{metadata.get("name", "")}'


def summary(answer):
    if isinstance(answer, list):
        return "scores " + ", ".join(f'{node["host"]} {node["score"]}' for node in answer)
    return "leaves " + ", ".join(node_names(answer))


def make_handler(localities, min_share, verbose):
    verbs = {"/prioritize": lambda arguments: prioritize(localities, arguments),
             "/filter": lambda arguments: filter_nodes(localities, arguments, min_share)}

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10  # of a connection

        def answer(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            verb = verbs.get(self.path)
            if verb is None:
                return self.answer(404, {"error": f"{self.path} is none of {', '.join(verbs)}"})
            try:
                length = int(self.headers.get("Content-Length", ""))
                if not 0 <= length <= BODY_BYTES_MAX:
                    return self.answer(413, {"error": f"a body has at most {BODY_BYTES_MAX} bytes"})
                # The scheduler writes Pod and NodeNames, older ones pod and nodenames; what it reads may be either.
                arguments = {name.lower(): value for name, value in json.loads(self.rfile.read(length)).items()}
                answer = verb(arguments)
                if verbose:
                    print(f'{self.path[1:]} {name_of(arguments.get("pod") or {})} {summary(answer)}', flush=True)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return self.answer(400, {"error": f"no ExtenderArgs: {error!r}"})
            return self.answer(200, answer)

        def log_message(self, *_):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sluice_stubs.add_node_flags(parser)
    parser.add_argument("--listen", default="127.0.0.1:9466", help="host:port (127.0.0.1:9466)")
    parser.add_argument("--min-share", type=float, default=0.0, help="0 to 1; what /filter asks of a node (0)")
    parser.add_argument("--verbose", action="store_true", help="say of each call which pod it was for, and the answer")
    flags = parser.parse_args()
    host, _, port = flags.listen.rpartition(":")
    with sluice_stubs.channel(flags) as channel:
        localities = Localities(services.PrefetchServiceStub(channel))
        handler = make_handler(localities, flags.min_share, flags.verbose)
        server = http.server.ThreadingHTTPServer((host, int(port)), handler)
        print(f"listening on {flags.listen}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
