"""The stubs of sluice.v1.PrefetchService, made of the .proto files, and a channel to a node's socket."""

import atexit
import pathlib
import shutil
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parent.parent / "proto"
NAMES = ("google/rpc/error_details.proto", "sluice/v1/types.proto", "sluice/v1/prefetch.proto")


def load(protos=PROTOS):
    """The messages, the services, and google.rpc's error details."""
    out = tempfile.mkdtemp(prefix="sluice-stubs-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    code = protoc.main(["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}", *NAMES])
    if code != 0:
        sys.exit(f"the stubs can't be made of {protos}")
    sys.path.insert(0, out)
    # google is a package of protobuf's too; what is in ours is found beside it.
    import google
    google.__path__.append(f"{out}/google")
    from google.rpc import error_details_pb2
    from sluice.v1 import prefetch_pb2, prefetch_pb2_grpc
    return prefetch_pb2, prefetch_pb2_grpc, error_details_pb2


def channel(socket):
    """To a node's prefetch.sock; connects when it is used, and again when the node has restarted."""
    backoff = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000)]
    return grpc.insecure_channel(f"unix:{socket}", options=backoff)
