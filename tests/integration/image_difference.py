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
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time

STARTED = time.time()
SKIPPED = 77
REFUSED = 3
REFUSALS_CHECKED = 3  # of a seed
LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MNT_DETACH = 1, 2
OCI = "application/vnd.oci.image."
NAMES = [b"a", b"b", b"c", b"d", b"e", b"f", b"A", b"...", b"-", b"!", b"~", b".hidden", b"sp ace", b"new\nline", b"\\x",
         b"*", b"e\xcc\x81", b"\xc3\xa9", b"\xff\xfe", b"\x01", b"wh", b".w", b"n" * 255, b"\xe4\xb8\xad" * 85]


def octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def pax_record(key, value):
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while len(b"%d" % size) + len(body) != size:
        size = len(b"%d" % size) + len(body)
    return b"%d" % size + body


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def header(entry, name, kind, size):
    """Whatever does not fit has a pax record, which counts."""
    block = bytearray(512)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108] = octal(entry.get("mode", 0o644), 8)
    block[108:116] = octal(entry.get("uid", 0) & 0o7777777, 8)
    block[116:124] = octal(entry.get("gid", 0) & 0o7777777, 8)
    block[124:136] = octal(size, 12)
    block[136:148] = octal(max(0, entry.get("mtime", (0, 0))[0]) & 0o77777777777, 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = entry.get("link", b"")[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[329:337] = octal(entry.get("device", (0, 0))[0], 8)
    block[337:345] = octal(entry.get("device", (0, 0))[1], 8)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_entry(entry):
    """As bytes, so that nothing is put right on the way."""
    records = {}
    if len(entry["path"]) > 100 or b"\xcc" in entry["path"]:
        records[b"path"] = entry["path"]
    if len(entry.get("link", b"")) > 100:
        records[b"linkpath"] = entry["link"]
    for key in ("uid", "gid"):
        if entry.get(key, 0) > 0o7777777:
            records[key.encode()] = b"%d" % entry[key]
    seconds, nanoseconds = entry.get("mtime", (0, 0))
    if nanoseconds or seconds < 0:
        # A number with a fraction: what is below a second goes with the sign.
        whole, part = (seconds, nanoseconds) if seconds >= 0 or not nanoseconds else (seconds + 1, 10**9 - nanoseconds)
        records[b"mtime"] = (b"-" if seconds < 0 and whole == 0 else b"") + b"%d.%09d" % (whole, part)
    for key, value in entry.get("xattrs", {}).items():
        records[b"SCHILY.xattr." + key] = value
    data = entry.get("data", b"")
    body = b"".join(pax_record(key, value) for key, value in records.items())
    extended = header({}, b"pax", b"x", len(body)) + padded(body) if records else b""
    return extended + header(entry, entry["path"], entry["type"], len(data)) + padded(data)


def tar(entries):
    return b"".join(tar_entry(entry) for entry in entries) + b"\0" * 1024


class Draw:
    """One image. It keeps in mind roughly what is there, so that most entries meet something and few are refused."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = self.random.sample(NAMES, self.random.randint(4, 12))
        self.there = {b"": "directory"}

    def chance(self, of):
        return self.random.random() < of

    def pick(self, *kinds):
        """A path that is there and of one of these kinds, or None."""
        paths = [path for path, kind in self.there.items() if kind in kinds and path]
        return self.random.choice(paths) if paths else None

    def parents(self, path):
        parts = path.split(b"/")
        return [b"/".join(parts[:i]) for i in range(1, len(parts))]

    def put(self, path, kind):
        self.there.update({parent: "directory" for parent in self.parents(path) if parent not in self.there})
        if kind != "directory":
            self.take(path)
        self.there[path] = kind

    def take(self, path):
        for gone in [other for other in self.there if other == path or other.startswith(path + b"/")]:
            del self.there[gone]

    def path(self):
        """Where something can be put: mostly into a directory, now and then through a symbolic link."""
        r = self.random
        while True:
            roll = r.random()
            parent = self.pick("directory") if roll < 0.8 else self.pick("symlink") if roll < 0.92 else b""
            path = b"/".join([parent or b""] + [r.choice(self.names) for _ in range(r.choice([1, 1, 1, 2, 4]))]).lstrip(b"/")
            if not any(self.there.get(above, "directory") in ("file", "other") for above in self.parents(path)) or self.chance(0.02):
                return path

    def known(self):
        """Something that is there, if anything is."""
        return self.pick("file", "symlink", "directory", "other") or self.path()

    def spelled(self, path):
        """Another way to write a path."""
        r = self.random
        if self.chance(0.8):
            return path
        return r.choice([b"./" + path, b"/" + path, b"../" + path, path.replace(b"/", b"//"), path.replace(b"/", b"/./"),
                         b"a/../" + path, b"x/y/../../" + path, path + b"/../" + path.rpartition(b"/")[2]])

    def target(self):
        r = self.random
        return r.choice([
            self.known, lambda: b"/" + self.known(), lambda: b"/" + (self.pick("directory") or b""),
            lambda: b"../" * r.randint(1, 4) + self.known(), lambda: self.known().rpartition(b"/")[2], lambda: b".",
            lambda: b"..", lambda: b"/", lambda: b"/" + self.path(), self.path, lambda: b"nowhere/" + self.path(), lambda: b"gone/../" + self.known(),
            lambda: b"//" + self.known() + b"/./", lambda: b"t" * r.choice([1, 100, 1000, 4000, 4095])])()

    def attributes(self, xattrs, modes=0o7777):
        r = self.random
        entry = {"mode": r.choice([0o644, 0o755, 0o700, 0, 0o7777, 0o4755, 0o2755, 0o1777, r.randrange(0o10000)]) & modes,
                 "uid": r.choice([0, 0, 1000, 65535, 65536, 2**21, 2**31, 2**32 - 2]),
                 "gid": r.choice([0, 0, 100, 65536, 2**32 - 2]),
                 "mtime": (r.choice([0, 1, 10**9, 2**31 - 1, 2**31, 2**33, -1, 1 - 2**31, r.randrange(10**9)]),
                           r.choice([0, 0, 1, 5 * 10**8, 999999999]))}
        if self.chance(0.25):
            entry["xattrs"] = {r.choice(xattrs): r.choice([b"1", b"same", bytes(r.randrange(256) for _ in range(r.randint(1, 300)))])
                               for _ in range(r.randint(1, 3))}
        return entry

    def data(self):
        r = self.random
        block = hashlib.sha256(b"%d" % r.randrange(40)).digest() * 128  # 4 KiB, of few kinds
        return r.choice([lambda: b"", lambda: b"small", lambda: block[:r.randint(1, 4096)], lambda: block * r.choice([1, 16, 17]),
                         lambda: block * 16 + b"\0" * r.choice([1, 65536, 100000]) + block, lambda: b"\0" * r.choice([1, 4096, 70000]),
                         lambda: block * 16 * r.randint(1, 4) + b"end"])()

    def entry(self):
        r = self.random
        kind = r.choices(["file", "directory", "symlink", "hard", "device", "fifo", "whiteout", "opaque", "root", "again"],
                         [30, 18, 12, 10, 2, 2, 12, 4, 1, 9])[0]
        both, trusted = [b"user.a", b"user." + b"n" * 200, b"trusted.t", b"security.x"], [b"trusted.t", b"security.x"]
        path = self.known() if kind == "again" else self.path()
        if kind == "again":  # another kind at the same place
            kind = r.choice(["file", "directory", "symlink", "fifo", "hard"])
        if kind == "whiteout":
            path = self.known() if self.chance(0.8) else path
            parent, _, name = path.rpartition(b"/")
            self.take(path)
            return {"type": b"0", "path": self.spelled(parent + b"/.wh." + name if parent else b".wh." + name)}
        if kind == "opaque":
            directory = self.pick("directory", "symlink") or b""
            return {"type": b"0", "path": directory + b"/.wh..wh..opq" if directory else b".wh..wh..opq"}
        if kind == "root":
            return {"type": b"5", "path": r.choice([b"./", b"/", b".", b"a/.."]), **self.attributes(both, 0o5777)}
        if kind == "hard":
            link = self.pick("file", "symlink", "other") if self.chance(0.98) else self.path()
            if link is None:
                kind = "file"
            else:
                self.put(path, self.there.get(link, "file"))
                return {"type": b"1", "path": self.spelled(path), "link": self.spelled(link)}
        self.put(path, kind if kind in ("file", "directory", "symlink") else "other")
        path = self.spelled(path)
        if kind == "directory":
            return {"type": b"5", "path": path + r.choice([b"", b"/"]), **self.attributes(both, 0o5777)}
        if kind == "symlink":
            return {"type": b"2", "path": path, "link": self.target(), **self.attributes(trusted)}
        if kind == "device":
            return {"type": r.choice([b"3", b"4"]), "path": path,
                    "device": r.choice([(1, 3), (8, 1), (259, 300), (4095, 1048575)]), **self.attributes(trusted)}
        if kind == "fifo":
            return {"type": b"6", "path": path, **self.attributes(trusted)}
        return {"type": b"0", "path": path, "data": self.data(), **self.attributes(both)}

    def layers(self):
        return [[self.entry() for _ in range(self.random.choice([0, 3, 10, 25, 60]))]
                for _ in range(self.random.randint(1, 7))]


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
        """Ours: what it printed, or None and the number of the layer and the entry that it refused."""
        out, paths = self.empty("ours"), []
        for i, layer in enumerate(layers):
            paths.append(f"{self.root}/layer{i}.tar")
            with open(paths[-1], "wb") as file:
                file.write(tar(layer))
        done = subprocess.run([self.tool, out, *paths], capture_output=True, check=False, timeout=60)
        if done.returncode == REFUSED:
            layer, entry, message = done.stderr.split(b" ", 2)
            return None, (int(layer), int(entry), message.decode().strip())
        if done.returncode != 0:
            raise RuntimeError(f"layers_to_erofs: exit status {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode().split("\n")[:-1], None

    def mounted(self, devices):
        options = ",".join("device=" + device for device in devices)
        if LIBC.mount((self.root + "/ours/image").encode(), self.mount.encode(), b"erofs", MS_RDONLY, options.encode()):
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

        descriptors = [blob("layer.v1.tar", tar(layer)) for layer in layers]
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
        done = subprocess.run(["umoci", "unpack", "--image", base + "/l:t", base + "/b"], capture_output=True, check=False,
                              timeout=120)
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


def differences(right, ours):
    lines = []
    for path in sorted(right.keys() | ours.keys()):
        if path not in ours or path not in right:
            lines.append(f"{path!r} is in {'umoci' if path in right else 'our'} tree only")
            continue
        for key in right[path].keys() | ours[path].keys():
            a, b = right[path].get(key), ours[path].get(key)
            of_today = key == "mtime" and right[path]["kind"] == oct(stat.S_IFDIR) and a >= (STARTED - 60) * 10**9 and a < 2**31 * 10**9 - 10**9
            if a != b and not of_today:
                lines.append(f"{path!r} {key}: umoci {a!r}, ours {b!r}")
    return lines


class Failed(Exception):
    pass


def try_seed(lab, seed, counts):
    """Entries that we refuse must be refused by umoci too; then the image is tried without them."""
    layers = Draw(seed).layers()
    checked = 0
    while True:
        devices, refused = lab.make(layers)
        if refused is None:
            break
        layer, entry, message = refused
        counts["refused"] += 1
        checked += 1
        if checked <= REFUSALS_CHECKED and lab.umoci(layers[:layer] + [layers[layer][:entry + 1]])[0] is not None:
            raise Failed(f"umoci takes what we refuse: layer {layer} entry {entry} {layers[layer][entry]!r}: {message}")
        del layers[layer][entry]
    counts["entries"] += sum(map(len, layers))
    root, said = lab.umoci(layers)
    while root is None:
        # The one argued case: a hard link to its own name, which may be written in many ways.
        at = own_link(lab, layers)
        if at is None:
            raise Failed(f"umoci refuses what we take: {said}")
        counts["own links"] += 1
        del layers[at[0]][at[1]]
        devices, refused = lab.make(layers)
        if refused is not None:
            raise Failed(f"a hard link to itself was of use: {refused}")
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
    assert refused is None, refused
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
