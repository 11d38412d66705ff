"""What kubectl tells of a cluster: the documents of its streams, and of pods and workloads what hints are made of."""

import dataclasses
import json
import queue
import re
import sys
import threading

DOCUMENT_CHARS_MAX = 64 << 20
DOCUMENTS_AHEAD_MAX = 256
EVENTS = {"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"}
# Their pods have ended when the next are made, and the nodes that ran them are as likely to run those.
RUN_TO_THEIR_END = {"Job", "CronJob"}
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", *RUN_TO_THEIR_END}
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BLANK = re.compile(r"\s*")


@dataclasses.dataclass(frozen=True)
class Pod:
    uid: str
    version: int = dataclasses.field(compare=False)  # a later one is greater; 0 if that is not told
    node: str  # empty until it is bound
    images: tuple
    ended: bool
    owners: tuple  # keys of workloads


@dataclasses.dataclass(frozen=True)
class Workload:
    """What makes pods by a template."""
    uid: str
    version: int = dataclasses.field(compare=False)
    key: tuple  # kind, namespace and name
    generation: str  # of what is wanted of it; its status may change under one
    images: tuple
    wanted: bool  # whether it is to have pods


# --- streams

def decoded(text):
    at = BLANK.match(text).end()
    while at < len(text):
        try:
            document, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON documents: {error}") from error
        yield document
        at = BLANK.match(text, at).end()


def documents(stream):
    """The JSON documents of a stream, each as soon as it is whole. ValueError if there is anything else in it."""
    lines, depth, size = [], 0, 0
    for line in stream:
        # Within a document kubectl indents all lines: this is the next one, and the former was cut off.
        if lines and line.startswith("{"):
            yield from decoded("".join(lines))
        lines.append(line)
        size += len(line)
        # No string goes over lines; brackets in strings don't count.
        bare = STRING.sub("", line)
        depth += bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")
        if size > DOCUMENT_CHARS_MAX:
            raise ValueError(f"a document has at most {DOCUMENT_CHARS_MAX} characters")
        if depth > 0 and '"' not in bare:
            continue
        yield from decoded("".join(lines))
        lines, depth, size = [], 0, 0
    yield from decoded("".join(lines))


def read_into(documents_read, name):
    try:
        with open(0 if name == "-" else name, encoding="utf-8", closefd=name != "-") as stream:
            for document in documents(stream):
                documents_read.put((name, document, None))
        documents_read.put((name, None, None))
    except (OSError, ValueError) as error:
        documents_read.put((name, None, error))


def merged(names):
    """(name, document) of several files or pipes, "-" for standard input, as they come, until all have ended. They are
    not one pipe because who write into one cut each other's documents. ValueError if one can't be read on."""
    documents_read = queue.Queue(DOCUMENTS_AHEAD_MAX)
    for name in names:
        threading.Thread(target=read_into, args=(documents_read, name), daemon=True).start()
    still_open = len(names)
    while still_open:
        name, document, error = documents_read.get()
        if error:
            raise ValueError(f"{name}: {error}")
        if document is not None:
            yield name, document
            continue
        still_open -= 1
        if still_open:
            print(f"{name} has ended", file=sys.stderr, flush=True)


# --- objects

def objects(document):
    """(kind, object, whether it is deleted) of a document: an object, a list of them, or an event of a watch."""
    if document.get("type") in EVENTS and "object" in document:
        event, thing = document["type"], document["object"]
        if event == "ERROR":
            raise ValueError(f"the watch has failed: {thing.get('message')}")
        return [] if event == "BOOKMARK" else [(thing["kind"], thing, event == "DELETED")]
    if "items" not in document:
        return [(document["kind"], document, False)]
    # The API server itself does not repeat the kind.
    of_list = document.get("kind", "").removesuffix("List")
    return [(thing.get("kind", of_list), thing, False) for thing in document["items"]]


def images_of(pod):
    """Of a pod, or of a template for pods."""
    spec = pod.get("spec") or {}
    containers = (spec.get("initContainers") or []) + (spec.get("containers") or [])
    return tuple(sorted({container["image"] for container in containers if container.get("image")}))


def version_of(metadata):
    """resourceVersion counts all changes of a cluster; where it is missing, generation counts those of the object."""
    version = str(metadata.get("resourceVersion", ""))
    return int(version) if version.isdecimal() else int(metadata.get("generation", 0))


def owners_of(metadata):
    """Keys of the workloads that a pod comes from, by what Kubernetes makes their names of: a ReplicaSet's of its
    Deployment's name and its template's hash, a Job's of its CronJob's name and its time."""
    namespace, labels = metadata.get("namespace", ""), metadata.get("labels") or {}
    for owner in metadata.get("ownerReferences") or []:
        kind, name = owner["kind"], owner["name"]
        if kind in WORKLOADS:
            yield kind, namespace, name
        template_hash = labels.get("pod-template-hash")
        if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
            yield "Deployment", namespace, name.removesuffix(f"-{template_hash}")
        if kind == "Job" and (scheduled := re.fullmatch(r"(.+)-\d+", name)):
            yield "CronJob", namespace, scheduled[1]


def pod_of(thing):
    metadata = thing["metadata"]
    return Pod(uid=metadata["uid"], version=version_of(metadata), node=(thing.get("spec") or {}).get("nodeName", ""),
               images=images_of(thing), ended=(thing.get("status") or {}).get("phase") in ("Succeeded", "Failed"),
               owners=tuple(owners_of(metadata)))


def workload_of(kind, thing):
    metadata, spec = thing["metadata"], thing["spec"]
    template = (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]
    over = any(condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
               for condition in (thing.get("status") or {}).get("conditions") or []) if kind == "Job" else False
    none = spec.get("parallelism" if kind == "Job" else "replicas") == 0 or bool(spec.get("suspend"))
    return Workload(uid=metadata["uid"], version=version_of(metadata), generation=str(metadata.get("generation", "")),
                    key=(kind, metadata.get("namespace", ""), metadata["name"]), images=images_of(template),
                    wanted=not over and not none)


def told(document):
    """[(Pod or Workload, whether it is gone)] of a document, without what is neither. ValueError if it is malformed."""
    try:
        facts = []
        for kind, thing, deleted in objects(document):
            fact = pod_of(thing) if kind == "Pod" else workload_of(kind, thing) if kind in WORKLOADS else None
            if fact:
                facts.append((fact, deleted or "deletionTimestamp" in thing["metadata"]))
        return facts
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no object of Kubernetes: {error!r}") from error
