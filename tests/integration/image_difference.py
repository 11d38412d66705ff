#!/usr/bin/env python3
"""Random images of many layers, made by our library and unpacked by umoci: the two trees must be equal.

usage: image_difference.py --tool PATH [--seeds FIRST COUNT] [--seed N] [--keep]

  --tool PATH          the program layers_to_erofs
  --seeds FIRST COUNT  the seeds to try (default 1 100)
  --seed N             one seed, with what differs in full
  --keep               leaves the last image's files, and says where

Needs root, umoci, and a kernel that mounts EROFS from files (6.12): else exit status 77, in CI 1.

Where the two may differ, each by a fault of umoci 0.4.7 or a choice of ours that says why:
- A directory's time is not compared when umoci's is of today: no entry has such a time. umoci gives a directory
  its time back after it has put something into it, but not the directories above one that it made there, and not
  those that it empties for a whiteout; nor does it set the time of a parent that no entry names (ours: 0).
- A hard link to the very name that it has: umoci removes the name first, then does not find it. We change nothing.
- An extended attribute without a value: Go's archive/tar drops such a record. We keep it; none is drawn here.
- umoci runs under umask 022, since it gives implied directories 0777 less that. Ours have 0755.
- An implied directory in one that sets the group of what is made there (02000) inherits that, from the file system
  that is unpacked to. Ours is a function of the layers, and image-spec says 0755 and 0:0. No directory here has it.
- ext4 has no time before -2^31 s.
- Neither is asked for what only one of them judges: names over 255 bytes, attributes that Linux refuses for a kind
  of file, owners of -1, reserved aufs names. The unit tests have these.
"""

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time

import random_layers

STARTED = time.time()
SKIPPED = 77
REFUSALS_CHECKED = 3  # of a seed
LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MNT_DETACH = 1, 2
OCI = "application/vnd.oci.image."


class Lab:
    def __init__(self, tool, keep):
        self.tool, self.keep = tool, keep
        self.root = tempfile.mkdtemp(prefix="sluice-difference-", dir="/var/tmp")
        self.mount = self.root + "/mnt"
        os.mkdir(self.mount)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.keep:
            print("kept:", self.root)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def empty(self, name):
        path = f"{self.root}/{name}"
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
        return path

    def make(self, layers):
        """Ours: the paths of its devices, and (layer, entry, message) of each entry that it refused."""
        out, paths = self.empty("ours"), []
        for i, layer in enumerate(layers):
            paths.append(f"{self.root}/layer{i}.tar")
            with open(paths[-1], "wb") as file:
                file.write(random_layers.tar(layer))
        done = subprocess.run([self.tool, out, *paths], capture_output=True, check=False, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"layers_to_erofs: exit status {done.returncode}: {done.stderr.decode()}")
        refused = [line.split(" ", 2) for line in done.stderr.decode().splitlines()]
        return done.stdout.decode().splitlines(), [(int(layer), int(entry), said) for layer, entry, said in refused]

    def mounted(self, devices):
        options = ",".join("device=" + device for device in devices)
        image = self.root + "/ours/image"
        if LIBC.mount(image.encode(), self.mount.encode(), b"erofs", MS_RDONLY, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount: " + os.strerror(ctypes.get_errno()))

    def unmount(self):
        LIBC.umount2(self.mount.encode(), MNT_DETACH)

    def umoci(self, layers):
        """The root of what umoci unpacked, or None and what it said."""
        base = self.empty("umoci")
        os.makedirs(base + "/l/blobs/sha256")

        def blob(media_type, data):
            digest = hashlib.sha256(data).hexdigest()
            with open(f"{base}/l/blobs/sha256/{digest}", "wb") as file:
                file.write(data)
            return {"mediaType": OCI + media_type, "digest": "sha256:" + digest, "size": len(data)}

        descriptors = [blob("layer.v1.tar", random_layers.tar(layer)) for layer in layers]
        config = {"architecture": "amd64", "os": "linux", "config": {},
                  "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in descriptors]}}
        manifest = blob("manifest.v1+json", json.dumps({
            "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
            "config": blob("config.v1+json", json.dumps(config).encode()), "layers": descriptors}).encode())
        manifest["annotations"] = {"org.opencontainers.image.ref.name": "t"}
        with open(base + "/l/oci-layout", "w", encoding="utf-8") as file:
            file.write('{"imageLayoutVersion": "1.0.0"}')
        with open(base + "/l/index.json", "w", encoding="utf-8") as file:
            json.dump({"schemaVersion": 2, "manifests": [manifest]}, file)
        done = subprocess.run(["umoci", "unpack", "--image", base + "/l:t", base + "/b"], capture_output=True,
                              check=False, timeout=120)
        if done.returncode != 0:
            return None, done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return base + "/b/rootfs", None


def tree(root):
    """What can be seen below a directory: path -> attributes; hard links by all their names."""
    found, numbers = {}, {}

    def visit(path, name):
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        seen = {"kind": oct(kind), "uid": status.st_uid, "gid": status.st_gid, "mtime": status.st_mtime_ns,
                "rdev": status.st_rdev,
                "xattrs": {key: os.getxattr(path, key, follow_symlinks=False)
                           for key in os.listxattr(path, follow_symlinks=False)}}
        if kind == stat.S_IFLNK:
            seen["target"] = os.readlink(path)
        else:
            seen["mode"] = oct(status.st_mode & 0o7777)
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                seen["contents"] = (status.st_size, hashlib.sha256(file.read()).hexdigest())
        if kind == stat.S_IFDIR:
            for child in sorted(os.listdir(path)):
                visit(path + b"/" + child, name + b"/" + child)
        else:
            numbers.setdefault(status.st_ino, []).append(name)
            seen["links"] = status.st_nlink
            seen["names"] = numbers[status.st_ino]
        found[name] = seen

    visit(os.fsencode(root), b"")
    return found


def is_directory_of_today(seen):
    return seen["kind"] == oct(stat.S_IFDIR) and STARTED - 60 <= seen["mtime"] / 10**9 <= time.time() + 60


def differences(right, ours):
    lines = []
    for path in sorted(right.keys() | ours.keys()):
        if path not in ours or path not in right:
            lines.append(f"{path!r} is in {'umoci' if path in right else 'our'} tree only")
            continue
        for key in right[path].keys() | ours[path].keys():
            a, b = right[path].get(key), ours[path].get(key)
            if a != b and not (key == "mtime" and is_directory_of_today(right[path])):
                lines.append(f"{path!r} {key}: umoci {a!r}, ours {b!r}")
    return lines


class Failed(Exception):
    pass


def try_seed(lab, seed, counts):
    """What we refuse must be refused by umoci too; the image is tried without it."""
    layers = random_layers.Draw(seed).layers()
    devices, refused = lab.make(layers)
    for number, (layer, entry, message) in enumerate(refused):
        if number == REFUSALS_CHECKED:
            break
        upto = without(layers[:layer] + [layers[layer][:entry + 1]], refused[:number])
        if lab.umoci(upto)[0] is not None:
            raise Failed(f"umoci takes what we refuse: {layers[layer][entry]!r}: {message}")
    layers = without(layers, refused)
    counts["refused"] += len(refused)
    counts["entries"] += sum(map(len, layers))
    root, said = lab.umoci(layers)
    while root is None:
        # The one argued case: a hard link to its own name, which may be written in many ways.
        at = own_link(lab, layers)
        if at is None:
            raise Failed(f"umoci refuses what we take: {said}")
        counts["own links"] += 1
        # With it, its name belonged to its layer: a whiteout behind it may now leave later links without a target.
        layers = without(layers, [at])
        devices, refused = lab.make(layers)
        layers = without(layers, refused)
        root, said = lab.umoci(layers)
    lab.mounted(devices)
    try:
        ours = tree(lab.mount)
    finally:
        lab.unmount()
    counts["files"] += len(ours)
    found = differences(tree(root), ours)
    if found:
        raise Failed("\n  ".join(found))


def without(layers, gone):
    numbers = {(at[0], at[1]) for at in gone}
    return [[entry for j, entry in enumerate(layer) if (i, j) not in numbers] for i, layer in enumerate(layers)]


def own_link(lab, layers):
    """The first entry that umoci refuses, if it is a hard link that changes nothing in our tree."""
    for i, layer in enumerate(layers):
        if lab.umoci(layers[:i + 1])[0] is not None:
            continue
        for j, entry in enumerate(layer):
            upto = layers[:i] + [layer[:j + 1]]
            if lab.umoci(upto)[0] is not None:
                continue
            if entry["type"] != b"1":
                return None
            with_it = our_tree(lab, upto)
            return (i, j) if with_it == our_tree(lab, layers[:i] + [layer[:j]]) else None
    return None


def our_tree(lab, layers):
    devices, refused = lab.make(layers)
    assert not refused, refused
    lab.mounted(devices)
    try:
        return tree(lab.mount)
    finally:
        lab.unmount()


def missing():
    if os.geteuid() != 0:
        return "root"
    if shutil.which("umoci") is None:
        return "umoci"
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 12):
        return "Linux 6.12, which mounts EROFS from files"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--seeds", nargs=2, type=int, default=(1, 100), metavar=("FIRST", "COUNT"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"SKIPPED: this test needs {lacking}, nothing of it has been checked")
        return 1 if os.environ.get("CI") else SKIPPED
    os.umask(0o022)
    first, count = (arguments.seed, 1) if arguments.seed is not None else arguments.seeds
    counts = dict.fromkeys(("entries", "files", "refused", "own links"), 0)
    failed = []
    with Lab(arguments.tool, arguments.keep) as lab:
        for seed in range(first, first + count):
            try:
                try_seed(lab, seed, counts)
            except Failed as difference:
                failed.append(seed)
                text = str(difference)
                print(f"FAILED: seed {seed} (replay: image_difference.py --tool {arguments.tool} --seed {seed})")
                print("  " + (text if arguments.seed is not None else text[:600]), flush=True)
    print(f"{count} seeds, {counts}, {len(failed)} differ {failed[:20] if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
