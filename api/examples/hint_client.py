#!/usr/bin/env python3
"""Hints at images, so that a node has them before they are mounted, and follows the hints to their ends.

    hint_client.py --socket /run/sluice/prefetch.sock registry.example/team/app:v2
    hint_client.py --socket ... --target node-7 --target node-8 registry.example/team/app:v2
    hint_client.py --socket ... --blob registry.example/team/model@sha256:...
    kubectl get pods --watch --output json -A | hint_client.py --socket ... --pods node-7
    kubectl get pods --watch --output json -A | hint_client.py --socket ... --pods node-7,node-8,node-9

With --pods NODE it reads pods, one JSON document after the other, and hints at the images of those that are bound to that
node, and of those that are bound to none yet, at a lower priority: they could come. Pods that are over are cancelled.
Of several nodes, by the names that they have in the cluster, one hint names all that a pod could come to, and the node
that takes it tells the others; once the pod is bound, one for its node takes that one's place everywhere.

A blob alone, without an image, is what a program reads that fetches its data by digest: a model, a data set.

A hint's id is made of what it is for, so that who is started again gives the same one and not a second. A node that is
full is asked again when it says so; one that restarts is watched on from the revision that was seen last.
"""

import argparse
import hashlib
import json
import sys
import threading
import time

import grpc

import sluice_stubs

messages, services, error_details = sluice_stubs.load()

OVER = {messages.HINT_STATE_COMPLETED, messages.HINT_STATE_CANCELLED, messages.HINT_STATE_FAILED,
        messages.HINT_STATE_EXPIRED, messages.HINT_STATE_PASSED_ON}
DONE = {messages.HINT_STATE_COMPLETED, messages.HINT_STATE_PASSED_ON}
RETRY_SECONDS = 1.0
CALL_SECONDS = 10.0
IDS_PER_CALL = 100
PRIORITY_BOUND, PRIORITY_PENDING = 50, 0


def hint_id(*what):
    return "example-" + hashlib.sha256("\0".join(what).encode()).hexdigest()[:32]


def retry_delay(error):
    """Seconds after which the node wants to be asked again; None if it has not said so."""
    for detail in error.details:
        info = error_details.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.seconds + info.retry_delay.nanos / 1e9
    return None


class HintClient:
    def __init__(self, stub, scheduler, ttl_seconds, pin):
        self.stub, self.scheduler, self.ttl_seconds, self.pin = stub, scheduler, ttl_seconds, pin

    def hint(self, identity, reference, priority=0, targets=()):
        hint = messages.Hint(id=identity, reference=reference, priority=priority, scheduler=self.scheduler, pin=self.pin,
                             all=messages.WholeImage(), targets=targets)
        hint.ttl.seconds = self.ttl_seconds
        return hint

    def blob_hint(self, identity, name, targets=()):
        hint = self.hint(identity, "", targets=targets)
        registry, _, rest = name.partition("/")
        repository, _, digest = rest.partition("@")
        hint.blob.CopyFrom(messages.HintedBlob(registry=registry, repository=repository, digest=digest))
        return hint

    def submit(self, hint, deadline):
        """Until the node has taken it. Returns why it was refused, or None."""
        while True:
            try:
                request = messages.SubmitHintsRequest(hints=[hint])
                error = self.stub.SubmitHints(request, timeout=CALL_SECONDS).results[0].error
            except grpc.RpcError as away:
                if away.code() == grpc.StatusCode.INVALID_ARGUMENT:
                    return away.details()
                if away.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
                continue
            delay = retry_delay(error)
            if error.code == 0:
                return None
            if delay is None or time.monotonic() + delay > deadline:
                return error.message
            time.sleep(delay)

    def cancel(self, identity):
        try:
            self.stub.CancelHints(messages.CancelHintsRequest(ids=[identity]), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                print(f"{identity} can't be cancelled: {error.details()}", file=sys.stderr)

    def follow(self, identities, on_change, deadline):
        """Until all are over. Returns their last states by id; what the node has forgotten stays as it was seen last."""
        last, revision = {}, 0
        open_ids = list(identities)
        while open_ids and time.monotonic() < deadline:
            request = messages.WatchHintsRequest(ids=open_ids[:IDS_PER_CALL], after_revision=revision)
            try:
                for answer in self.stub.WatchHints(request, timeout=deadline - time.monotonic()):
                    for hint in answer.hints:
                        last[hint.id] = hint
                        revision = max(revision, hint.revision)
                        on_change(hint)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    # One was forgotten. The others are watched one by one as they are found.
                    open_ids = [name for name in open_ids if self.is_known(name)]
                elif error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                time.sleep(RETRY_SECONDS)
            open_ids = [name for name in open_ids if name not in last or last[name].state not in OVER]
        return last

    def is_known(self, identity):
        try:
            self.stub.GetHint(messages.GetHintRequest(id=identity), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return error.code() != grpc.StatusCode.NOT_FOUND
        return True


def show(hint):
    state = messages.HintState.Name(hint.state).removeprefix("HINT_STATE_").lower()
    why = f": {hint.error.message}" if hint.HasField("error") else ""
    told = "".join(f", {target.name} {messages.TargetState.Name(target.state).removeprefix('TARGET_STATE_').lower()}"
                   for target in hint.targets)
    print(f"{hint.reference} {state} {hint.present_bytes} of {hint.total_bytes}{told}{why}", flush=True)


def hint_at(client, images, blobs, targets, deadline):
    hints = {image: client.hint(hint_id(client.scheduler, image, *targets), image, targets=targets) for image in images}
    for blob in blobs:
        hints[blob] = client.blob_hint(hint_id(client.scheduler, "blob", blob, *targets), blob, targets)
    identities, refused = [], 0
    for name, hint in hints.items():
        why = client.submit(hint, deadline)
        if why:
            print(f"{name} refused: {why}", file=sys.stderr)
            refused += 1
        else:
            identities.append(hint.id)
    states = client.follow(identities, show, deadline)
    done = sum(1 for hint in states.values() if hint.state in DONE)
    return 0 if refused == 0 and done == len(identities) else 1


def documents(stream):
    """The JSON documents of a stream, each as soon as it is whole."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text += line
        while text.strip():
            text = text.lstrip()
            try:
                document, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                break  # the rest is still to come
            text = text[end:]
            yield document


def images_of(pod):
    spec = pod.get("spec", {})
    containers = spec.get("initContainers", []) + spec.get("containers", [])
    return sorted({container["image"] for container in containers if container.get("image")})


def hint_at_pods(client, nodes, stream, give_up_seconds):
    """As pods come and go; ends with the stream, once the hints that it has given are over."""
    several = len(nodes) > 1  # else it speaks to that node itself
    followed = []
    for document in documents(stream):
        for pod in document.get("items", [document]):
            metadata, bound_to = pod.get("metadata", {}), pod.get("spec", {}).get("nodeName", "")
            ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in metadata
            for image in images_of(pod):
                # Bound and pending are two hints: the priority of one that was given can't be changed.
                pending, bound = (hint_id(metadata.get("uid", ""), image, kind) for kind in ("pending", "bound"))
                if ended or bound_to not in ("", *nodes):
                    for identity in (pending, bound):
                        client.cancel(identity)
                    continue
                identity, priority = (bound, PRIORITY_BOUND) if bound_to else (pending, PRIORITY_PENDING)
                deadline = time.monotonic() + give_up_seconds
                targets = () if not several else [bound_to] if bound_to else nodes
                why = client.submit(client.hint(identity, image, priority, targets), deadline)
                if why:
                    print(f"{image} refused: {why}", file=sys.stderr)
                    continue
                if bound_to:
                    client.cancel(pending)
                thread = threading.Thread(target=client.follow, args=([identity], show, deadline), daemon=True)
                thread.start()
                followed.append(thread)
                followed = [thread for thread in followed if thread.is_alive()]
    for thread in followed:
        thread.join()
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True, help="the node's prefetch.sock")
    parser.add_argument("--scheduler", default="example", help="who hints; each name has its own bound")
    parser.add_argument("--ttl", type=int, default=3600, help="seconds after which a hint is given up (3600)")
    parser.add_argument("--give-up", type=float, default=600, help="seconds that this program waits (600)")
    parser.add_argument("--pin", action="store_true", help="keep what was brought in until it is unpinned")
    parser.add_argument("--target", action="append", default=[], help="a member of the cluster that it is for, by name")
    parser.add_argument("--blob", action="append", default=[], metavar="REGISTRY/REPOSITORY@DIGEST",
                        help="a blob without an image")
    parser.add_argument("--pods", metavar="NODE[,NODE...]",
                        help="read pods from standard input; the nodes by their names there")
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    flags = parser.parse_args()
    if bool(flags.images or flags.blob) == bool(flags.pods):
        parser.error("name images or blobs, or give --pods NODE")
    if flags.pods and flags.target:
        parser.error("--pods says itself which nodes its hints are for")
    with sluice_stubs.channel(flags.socket) as channel:
        client = HintClient(services.PrefetchServiceStub(channel), flags.scheduler, flags.ttl, flags.pin)
        if flags.pods:
            return hint_at_pods(client, flags.pods.split(","), sys.stdin, flags.give_up)
        return hint_at(client, flags.images, flags.blob, flags.target, time.monotonic() + flags.give_up)


if __name__ == "__main__":
    sys.exit(main())
