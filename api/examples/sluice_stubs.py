"""The stubs of sluice.v1.PrefetchService, made of the .proto files, and a channel to a node."""

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


def add_node_flags(parser):
    """By which a program is told the node that it speaks to."""
    node = parser.add_mutually_exclusive_group(required=True)
    node.add_argument("--socket", help="the node's prefetch.sock")
    node.add_argument("--node", metavar="HOST:PORT", help="another host's node, by TLS (its api.prefetchListen)")
    parser.add_argument("--ca", type=pathlib.Path, help="with --node: PEM of the authority of its certificate")
    parser.add_argument("--certificate", type=pathlib.Path, help="with --node: PEM of what is shown to it")
    parser.add_argument("--key", type=pathlib.Path, help="with --node: PEM of the key of that")
    parser.add_argument("--peer-name", default="sluice", help="the DNS name of its certificate (sluice)")


def channel(flags):
    """To that node; connects when it is used, and again when the node has restarted."""
    options = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000)]
    if flags.socket:
        return grpc.insecure_channel(f"unix:{flags.socket}", options=options)
    files = {name: getattr(flags, name) for name in ("ca", "certificate", "key")}
    missing = [name for name, path in files.items() if path is None]
    if missing:
        sys.exit(f"--node needs --{', --'.join(missing)}")
    try:
        ca, certificate, key = (path.read_bytes() for path in files.values())
    except OSError as error:
        sys.exit(str(error))
    options.append(("grpc.ssl_target_name_override", flags.peer_name))
    return grpc.secure_channel(flags.node, grpc.ssl_channel_credentials(ca, key, certificate), options=options)
