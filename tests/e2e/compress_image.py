#!/usr/bin/env python3
"""Makes of a lazy image whose blobs are plain another one whose blobs lie compressed at the registry.

usage: compress_image.py REGISTRY NAME TAG NEW_TAG [--level N] [--to NAME]
                         [--lie KIND] [--chunk N]

Prints the stored digests, a line a layer. With --lie one frame (of chunk --chunk) or the table is not what it should
be, in the way that is named; everything else, digests too, is as it must be.
"""

import argparse
import ctypes
import hashlib
import json
import struct
import urllib.request

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LIES = ("size", "trailing", "cut", "two", "window", "noise", "bytes", "table-count", "table-size", "table-plain", "table-past",
        "table-noise")

zstd = ctypes.CDLL("libzstd.so.1")
for name in ("ZSTD_compressBound", "ZSTD_compress"):
    getattr(zstd, name).restype = ctypes.c_size_t
zstd.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
zstd.ZSTD_compress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]


def frame_of(plain, level):
    out = ctypes.create_string_buffer(zstd.ZSTD_compressBound(len(plain)))
    size = zstd.ZSTD_compress(out, len(out), plain, len(plain), level)
    return out.raw[:size]


def lying_frame(kind, plain, level):
    """What stands where the frame of `plain` should."""
    right = frame_of(plain, level)
    return {
        "size": lambda: frame_of(plain[:-1], level),
        "trailing": lambda: right + b"x",
        "cut": lambda: right[:-1],
        "two": lambda: frame_of(plain[:len(plain) // 2], level) + frame_of(plain[len(plain) // 2:], level),
        "window": lambda: b"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00",
        "noise": lambda: b"no frame at all",
        "bytes": lambda: frame_of(bytes([plain[0] ^ 1]) + plain[1:], level),
    }.get(kind, lambda: right)()


def table_of(sizes, plain_sizes, kind, frames_bytes):
    entries = b"".join(struct.pack("<II", *pair) for pair in zip(sizes, plain_sizes))
    count = len(sizes)
    if kind == "table-size":
        entries = struct.pack("<I", sizes[0] + 1) + entries[4:]
    elif kind == "table-plain":
        entries = entries[:4] + struct.pack("<I", plain_sizes[0] // 2) + entries[8:]
    elif kind == "table-past":
        entries = entries[:-8] + struct.pack("<I", frames_bytes) + entries[-4:]
    elif kind == "table-count":
        count -= 1
    table = struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries + struct.pack("<IBI", count, 0, 0x8F92EAB1)
    return b"x" * len(table) if kind == "table-noise" else table


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Repository:
    def __init__(self, registry, name):
        self.base = f"http://{registry}/v2/{name}"

    def get(self, path, accept="*/*"):
        with urllib.request.urlopen(urllib.request.Request(self.base + path, headers={"Accept": accept})) as answer:
            return answer.read()

    def put(self, url, data, content_type):
        request = urllib.request.Request(url, data=data, method="PUT", headers={"Content-Type": content_type})
        urllib.request.urlopen(request).close()

    def upload(self, data):
        begun = urllib.request.urlopen(urllib.request.Request(self.base + "/blobs/uploads/", method="POST"))
        self.put(f"{begun.headers['Location']}&digest={digest_of(data)}", data, "application/octet-stream")
        return digest_of(data)


def compress_device(layer, plain, args):
    """The layer's stored bytes and its new descriptor, but for digest and size."""
    notes = dict(layer["annotations"])
    chunk = int(notes["io.sluice.blob.chunk-size"])
    pieces = [plain[i:i + chunk] for i in range(0, len(plain), chunk)]
    frames = [lying_frame(args.lie if i == args.chunk else None, piece, args.level) for i, piece in enumerate(pieces)]
    stored = b"".join(frames)
    notes["org.erofs.uncompressed-digest"] = layer["digest"]
    notes["io.sluice.zstd"] = f"zstd:{args.level}"
    if len(pieces) > 1:
        table = table_of([len(f) for f in frames], [len(p) for p in pieces], args.lie, len(stored))
        notes["io.sluice.blob.seek-table"] = f"{len(stored)}:{len(table)}:{digest_of(table)}"
        stored += table
    return stored, {"mediaType": "application/octet-stream+zstd", "annotations": notes}


def compress_bootstrap(layer, plain, args):
    notes = {"org.erofs.uncompressed-digest": layer["digest"], "io.sluice.blob.size": str(len(plain))}
    half = len(plain) // 2
    stored = lying_frame(args.lie[10:] if (args.lie or "").startswith("bootstrap-") else None, plain[:half], args.level)
    stored += frame_of(plain[half:], args.level)
    return stored, {"mediaType": "application/vnd.erofs+zstd", "annotations": notes}


def main():
    parser = argparse.ArgumentParser()
    for name in ("registry", "name", "tag", "new_tag"):
        parser.add_argument(name)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--to", help="the repository of the new image")
    parser.add_argument("--lie", choices=LIES + tuple("bootstrap-" + kind for kind in ("cut", "noise", "bytes")))
    parser.add_argument("--chunk", type=int, default=0)
    args = parser.parse_args()

    source = Repository(args.registry, args.name)
    target = Repository(args.registry, args.to or args.name)
    manifest = json.loads(source.get(f"/manifests/{args.tag}", MANIFEST))
    for layer in manifest["layers"]:
        plain = source.get(f"/blobs/{layer['digest']}")
        is_device = layer.get("annotations", {}).get("org.erofs.role") == "device"
        stored, new = (compress_device if is_device else compress_bootstrap)(layer, plain, args)
        layer.update(new, digest=target.upload(stored), size=len(stored))
        print(layer["digest"])
    target.upload(source.get(f"/blobs/{manifest['config']['digest']}"))
    target.put(f"{target.base}/manifests/{args.new_tag}", json.dumps(manifest).encode(), MANIFEST)


if __name__ == "__main__":
    main()
