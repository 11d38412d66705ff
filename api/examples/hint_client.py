#!/usr/bin/env python3
"""Hints at images, so that a node has them before they are mounted, and follows the hints to their ends.

    hint_client.py --socket /run/sluice/prefetch.sock registry.example/team/app:v2
    hint_client.py --socket ... --target node-7 --target node-8 registry.example/team/app:v2
    hint_client.py --socket ... --blob registry.example/team/model@sha256:...
    kubectl get pods --watch --output json -A | hint_client.py --socket ... --pods node-7
    watch() { while echo; do kubectl get "$1" -A --watch --output-watch-events --output json; sleep 1; done; }
    hint_client.py --socket ... --pods node-7,node-8,node-9 --from <(watch pods) --from <(watch deployments)

With --pods NODE it reads pods, one JSON document after the other, and hints at the images of those that are bound to that
node, and of those that are bound to none yet, at a lower priority: they could come. Pods that are over are cancelled.
Of several nodes, by the names that they have in the cluster, one hint names all that a pod could come to, and the node
that takes it tells the others; once the pod is bound, one for its node takes that one's place everywhere.

Deployments, StatefulSets, DaemonSets, Jobs and CronJobs among the documents are hinted at before any pod of theirs has
a new image: when their template gets one, the nodes that have pods of theirs without it are likely to need it next. What
is deleted, is scaled to zero or has another image again is cancelled; that it is deleted is told by events alone
(--output-watch-events). kubectl watches one kind at a time, and not for ever: watch() above begins again, and ends itself
when nobody reads it. What was deleted in between stays until its hints' ttl has passed.

A blob alone, without an image, is what a program reads that fetches its data by digest: a model, a data set.

A hint's id is made of what it is for, so that who is started again gives the same one and not a second. A node that is
full is asked again when it says so; one that restarts is watched on from the revision that was seen last.
"""

import argparse
import collections
import hashlib
import sys
import threading
import time

import grpc

import kubernetes_objects
import sluice_stubs

messages, services, error_details = sluice_stubs.load()

OVER = {messages.HINT_STATE_COMPLETED, messages.HINT_STATE_CANCELLED, messages.HINT_STATE_FAILED,
        messages.HINT_STATE_EXPIRED, messages.HINT_STATE_PASSED_ON}
DONE = {messages.HINT_STATE_COMPLETED, messages.HINT_STATE_PASSED_ON}
RETRY_SECONDS = 1.0
CALL_SECONDS = 10.0
IDS_PER_CALL = 100
TARGETS_MAX = 1024  # of a hint
PRIORITY_BOUND, PRIORITY_UPDATE, PRIORITY_PENDING = 50, 25, 0
PODS_KEPT_MAX, WORKLOADS_KEPT_MAX, GONE_KEPT_MAX = 200_000, 50_000, 10_000


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


class ClusterHints:
    """What pods and workloads are about to need, hinted at as they come, change and go. It follows from how they stand
    now, so that it does not matter in which order they were told, how often, or by which stream."""

    def __init__(self, client, nodes, give_up_seconds):
        self.client, self.nodes, self.give_up_seconds = client, nodes, give_up_seconds
        # Those that were told of longest ago first: a deletion may be missed between two watches.
        self.pods, self.workloads = collections.OrderedDict(), collections.OrderedDict()
        self.pods_of = {}  # by a workload's key: uids
        self.given = {}  # by a workload's key: {image: {node: id of the hint}}
        self.gone = collections.OrderedDict()  # uids, so that what is told late does not bring them back
        self.followed = []

    def take(self, fact, gone):
        is_pod = isinstance(fact, kubernetes_objects.Pod)
        kept, name = (self.pods, fact.uid) if is_pod else (self.workloads, fact.key)
        known = kept.get(name)
        same = known is not None and known.uid == fact.uid
        if fact.uid in self.gone or same and fact.version < known.version:
            return
        if gone:
            self.gone[fact.uid] = None
            if known and not same:
                return  # its successor of that name is there already
        self.forget(name)
        if not gone:
            self.keep(name, fact)
        self.forget_oldest()
        if not gone and fact == known:
            return
        if is_pod:
            self.hint_at_pod(fact, gone)
        for key in fact.owners if is_pod else [fact.key]:
            self.hint_at_update(key)

    def keep(self, name, fact):
        if not isinstance(fact, kubernetes_objects.Pod):
            self.workloads[name] = fact
            return
        self.pods[name] = fact
        for key in fact.owners:
            self.pods_of.setdefault(key, set()).add(name)

    def forget(self, name):
        self.workloads.pop(name, None)
        pod = self.pods.pop(name, None)
        for key in pod.owners if pod else ():
            self.pods_of[key].discard(name)
            if not self.pods_of[key]:
                del self.pods_of[key]

    def forget_oldest(self):
        for kept, bound in ((self.pods, PODS_KEPT_MAX), (self.workloads, WORKLOADS_KEPT_MAX)):
            while len(kept) > bound:
                name = next(iter(kept))
                self.forget(name)
                self.given.pop(name, None)  # what was given ends by its ttl
        while len(self.gone) > GONE_KEPT_MAX:
            self.gone.popitem(last=False)

    def give(self, identity, image, priority, nodes):
        """Whether the node has taken it; what becomes of it then is shown while others are given."""
        targets = nodes if len(self.nodes) > 1 else ()  # else it speaks to that node itself
        deadline = time.monotonic() + self.give_up_seconds
        why = self.client.submit(self.client.hint(identity, image, priority, targets), deadline)
        if why:
            print(f"{image} refused: {why}", file=sys.stderr, flush=True)
            return False
        thread = threading.Thread(target=self.client.follow, args=([identity], show, deadline), daemon=True)
        thread.start()
        self.followed = [thread, *(thread for thread in self.followed if thread.is_alive())]
        return True

    def hint_at_pod(self, pod, gone):
        for image in pod.images:
            # Bound and pending are two hints: the priority of one that was given can't be changed.
            pending, bound = (hint_id(pod.uid, image, kind) for kind in ("pending", "bound"))
            if gone or pod.ended or pod.node not in ("", *self.nodes):
                for identity in (pending, bound):
                    self.client.cancel(identity)
            elif not pod.node:
                self.give(pending, image, PRIORITY_PENDING, self.nodes)
            elif self.give(bound, image, PRIORITY_BOUND, [pod.node]):
                self.client.cancel(pending)

    def hint_at_update(self, key):
        """The images of its template, for the nodes that have pods of it, and none with the image."""
        workload, given = self.workloads.get(key), self.given.pop(key, {})
        images = workload.images if workload and workload.wanted else ()
        # First, for what else is wanted has their place then.
        for image in given.keys() - set(images):
            for identity in set(given.pop(image).values()):
                self.client.cancel(identity)
        for image in images:
            missing = sorted(self.nodes_before(workload, image) - given.get(image, {}).keys())
            for at in range(0, len(missing), TARGETS_MAX):
                targets = missing[at:at + TARGETS_MAX]
                # The generation, because a hint that was cancelled can't be given again when its image comes back.
                identity = hint_id(workload.uid, workload.generation, image, "update", *targets)
                self.give(identity, image, PRIORITY_UPDATE, targets)
                given.setdefault(image, {}).update(dict.fromkeys(targets, identity))
        if given:
            self.given[key] = given

    def nodes_before(self, workload, image):
        pods = [self.pods[uid] for uid in self.pods_of.get(workload.key, ())]
        if workload.key[0] not in kubernetes_objects.RUN_TO_THEIR_END:
            pods = [pod for pod in pods if not pod.ended]
        there = {pod.node for pod in pods if pod.node in self.nodes}
        return there - {pod.node for pod in pods if image in pod.images}

    def wait(self):
        for thread in self.followed:
            thread.join()


def hint_at_cluster(client, nodes, names, give_up_seconds):
    """As pods and workloads come and go; ends with the streams, once the hints that it has given are over."""
    hints = ClusterHints(client, nodes, give_up_seconds)
    try:
        for name, document in kubernetes_objects.merged(names):
            try:
                facts = kubernetes_objects.told(document)
            except ValueError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            for fact, gone in facts:
                hints.take(fact, gone)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    hints.wait()
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sluice_stubs.add_node_flags(parser)
    parser.add_argument("--scheduler", default="example", help="who hints; each name has its own bound")
    parser.add_argument("--ttl", type=int, default=3600, help="seconds after which a hint is given up (3600)")
    parser.add_argument("--give-up", type=float, default=600, help="seconds that this program waits (600)")
    parser.add_argument("--pin", action="store_true", help="keep what was brought in until it is unpinned")
    parser.add_argument("--target", action="append", default=[], help="a member of the cluster that it is for, by name")
    parser.add_argument("--blob", action="append", default=[], metavar="REGISTRY/REPOSITORY@DIGEST",
                        help="a blob without an image")
    parser.add_argument("--pods", metavar="NODE[,NODE...]",
                        help="read pods and workloads from standard input; the nodes by their names there")
    parser.add_argument("--from", action="append", default=[], dest="sources", metavar="FILE",
                        help="with --pods, read this file or pipe instead; may be given several times")
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    flags = parser.parse_args()
    if bool(flags.images or flags.blob) == bool(flags.pods):
        parser.error("name images or blobs, or give --pods NODE")
    if flags.pods and flags.target:
        parser.error("--pods says itself which nodes its hints are for")
    if flags.sources and not flags.pods:
        parser.error("--from is what --pods reads")
    with sluice_stubs.channel(flags) as channel:
        client = HintClient(services.PrefetchServiceStub(channel), flags.scheduler, flags.ttl, flags.pin)
        if flags.pods:
            return hint_at_cluster(client, flags.pods.split(","), flags.sources or ["-"], flags.give_up)
        return hint_at(client, flags.images, flags.blob, flags.target, time.monotonic() + flags.give_up)


if __name__ == "__main__":
    sys.exit(main())
