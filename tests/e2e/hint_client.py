#!/usr/bin/env python3
"""Speaks to PrefetchService with stubs made of the .proto files, as anybody else's client would.

usage: hint_client.py PROTO_DIR NODE submit ID REFERENCE
       hint_client.py PROTO_DIR NODE watch ID
       hint_client.py PROTO_DIR NODE idle-watchers COUNT ID
       hint_client.py PROTO_DIR NODE admin

NODE is a socket, or HOST:PORT,CA,CERTIFICATE,KEY with three files in PEM for TLS.

submit gives a hint for all of the image and follows it to its end; it prints "STATE PRESENT TOTAL" for each message.
idle-watchers opens COUNT watches that it never reads from, prints "watching", and holds them until its input ends.
admin asks for what is not served where hints are taken, and prints the code of the answer.
"""

import os
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc


def load_stubs(proto_dir):
    out = tempfile.mkdtemp(prefix="stubs-", dir=os.environ.get("TMPDIR"))
    names = ["sluice/v1/types.proto", "sluice/v1/prefetch.proto"]
    if protoc.main(["protoc", f"-I{proto_dir}", f"--python_out={out}", f"--grpc_python_out={out}", *names]) != 0:
        sys.exit("the stubs can't be made")
    sys.path.insert(0, out)
    from sluice.v1 import prefetch_pb2, prefetch_pb2_grpc
    return prefetch_pb2, prefetch_pb2_grpc


def watch(messages, stub, hint_id):
    last = None
    for answer in stub.WatchHints(messages.WatchHintsRequest(ids=[hint_id])):
        for hint in answer.hints:
            last = messages.HintState.Name(hint.state).removeprefix("HINT_STATE_")
            print(last, hint.present_bytes, hint.total_bytes, hint.error.message, flush=True)
    return 0 if last == "COMPLETED" else 1


def submit(messages, stub, hint_id, reference):
    hint = messages.Hint(id=hint_id, reference=reference, all=messages.WholeImage())
    result = stub.SubmitHints(messages.SubmitHintsRequest(hints=[hint])).results[0]
    if result.outcome == messages.SUBMIT_OUTCOME_REFUSED:
        print("REFUSED", result.error.code, result.error.message)
        return 1
    return watch(messages, stub, hint_id)


def idle_watchers(messages, stub, count, hint_id):
    request = messages.WatchHintsRequest(ids=[hint_id])
    streams = [stub.WatchHints(request) for _ in range(int(count))]
    print("watching", flush=True)
    sys.stdin.read()
    for stream in streams:
        stream.cancel()
    return 0


def admin(channel):
    try:
        channel.unary_unary("/sluice.v1.AdminService/GetStatus")(b"", timeout=10)
    except grpc.RpcError as error:
        print(error.code().value[0])
        return 0
    return 1


def open_channel(node):
    address, *files = node.split(",")
    if not files:
        return grpc.insecure_channel(f"unix:{address}")
    ca, certificate, key = (pathlib.Path(name).read_bytes() for name in files)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    # Nodes are known by the name that all of them have.
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "sluice")])


def main():
    proto_dir, node, command, *arguments = sys.argv[1:]
    messages, services = load_stubs(proto_dir)
    with open_channel(node) as channel:
        if command == "admin":
            return admin(channel)
        stub = services.PrefetchServiceStub(channel)
        run = {"submit": submit, "watch": lambda m, s, hint_id: watch(m, s, hint_id), "idle-watchers": idle_watchers}
        return run[command](messages, stub, *arguments)


if __name__ == "__main__":
    sys.exit(main())
