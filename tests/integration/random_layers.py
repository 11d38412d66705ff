"""Layers of random images, as bytes: a seed gives the same ones again. For image_difference.py."""

import hashlib
import random

NAMES = [b"a", b"b", b"c", b"d", b"e", b"f", b"A", b"...", b"-", b"!", b"~", b".hidden", b"sp ace", b"new\nline",
         b"\\x", b"*", b"e\xcc\x81", b"\xc3\xa9", b"\xff\xfe", b"\x01", b"wh", b".w", b"n" * 255,
         b"\xe4\xb8\xad" * 85]
MODES = [0o644, 0o755, 0o700, 0, 0o7777, 0o4755, 0o2755, 0o1777]
DIRECTORY_MODES = 0o5777  # no directory sets the group of what is made in it: image_difference.py says why
SECONDS = [0, 1, 10**9, 2**31 - 1, 2**31, 2**33, -1, 1 - 2**31]
KINDS = {"file": 30, "directory": 18, "symlink": 12, "hard": 10, "device": 2, "fifo": 2, "whiteout": 12, "opaque": 4,
         "root": 1, "again": 9}
XATTRS = [b"trusted.t", b"security.x"]
USER_XATTRS = [b"user.a", b"user." + b"n" * 200]


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
        whole, part = seconds, nanoseconds
        if seconds < 0 and nanoseconds:
            whole, part = seconds + 1, 10**9 - nanoseconds
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
            names = [r.choice(self.names) for _ in range(r.choice([1, 1, 1, 2, 4]))]
            path = b"/".join([parent or b""] + names).lstrip(b"/")
            above = {self.there.get(parent, "directory") for parent in self.parents(path)}
            if above <= {"directory", "symlink"} or self.chance(0.02):
                return path

    def known(self):
        """Something that is there, if anything is."""
        return self.pick("file", "symlink", "directory", "other") or self.path()

    def spelled(self, path):
        """Another way to write a path."""
        r = self.random
        if self.chance(0.8):
            return path
        return r.choice([b"./" + path, b"/" + path, b"../" + path, path.replace(b"/", b"//"),
                         path.replace(b"/", b"/./"), b"a/../" + path, b"x/y/../../" + path,
                         path + b"/../" + path.rpartition(b"/")[2]])

    def target(self):
        r = self.random
        return r.choice([
            self.known, lambda: b"/" + self.known(), lambda: b"/" + (self.pick("directory") or b""),
            lambda: b"../" * r.randint(1, 4) + self.known(), lambda: self.known().rpartition(b"/")[2], lambda: b".",
            lambda: b"..", lambda: b"/", lambda: b"/" + self.path(), self.path, lambda: b"nowhere/" + self.path(),
            lambda: b"gone/../" + self.known(), lambda: b"//" + self.known() + b"/./",
            lambda: b"t" * r.choice([1, 100, 1000, 4000, 4095])])()

    def attributes(self, xattrs, modes=0o7777):
        r = self.random
        entry = {"mode": r.choice(MODES + [r.randrange(0o10000)]) & modes,
                 "uid": r.choice([0, 0, 1000, 65535, 65536, 2**21, 2**31, 2**32 - 2]),
                 "gid": r.choice([0, 0, 100, 65536, 2**32 - 2]),
                 "mtime": (r.choice(SECONDS + [r.randrange(10**9)]), r.choice([0, 0, 1, 5 * 10**8, 999999999]))}
        if self.chance(0.25):
            values = [b"1", b"same", r.randbytes(r.randint(1, 300))]
            entry["xattrs"] = {r.choice(xattrs): r.choice(values) for _ in range(r.randint(1, 3))}
        return entry

    def data(self):
        r = self.random
        block = hashlib.sha256(b"%d" % r.randrange(40)).digest() * 128  # 4 KiB, of few kinds
        return r.choice([
            lambda: b"", lambda: b"small", lambda: block[:r.randint(1, 4096)], lambda: block * r.choice([1, 16, 17]),
            lambda: block * 16 + b"\0" * r.choice([1, 65536, 100000]) + block,
            lambda: b"\0" * r.choice([1, 4096, 70000]), lambda: block * 16 * r.randint(1, 4) + b"end"])()

    def entry(self):
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "whiteout":
            path = self.known() if self.chance(0.8) else self.path()
            parent, _, name = path.rpartition(b"/")
            self.take(path)
            return {"type": b"0", "path": self.spelled(parent + b"/.wh." + name if parent else b".wh." + name)}
        if kind == "opaque":
            directory = self.pick("directory", "symlink")
            return {"type": b"0", "path": directory + b"/.wh..wh..opq" if directory else b".wh..wh..opq"}
        if kind == "root":
            return {"type": b"5", "path": self.random.choice([b"./", b"/", b".", b"a/.."]),
                    **self.attributes(XATTRS + USER_XATTRS, DIRECTORY_MODES)}
        if kind == "again":  # something, perhaps of another kind, where something is
            return self.file(self.random.choice(["file", "directory", "symlink", "fifo", "hard"]), self.known())
        return self.file(kind, self.path())

    def file(self, kind, path):
        r = self.random
        if kind == "hard":
            link = self.pick("file", "symlink", "other") if self.chance(0.98) else self.path()
            if link is not None:
                self.put(path, self.there.get(link, "file"))
                return {"type": b"1", "path": self.spelled(path), "link": self.spelled(link)}
            kind = "file"
        self.put(path, kind if kind in ("file", "directory", "symlink") else "other")
        path = self.spelled(path)
        if kind == "directory":
            return {"type": b"5", "path": path + r.choice([b"", b"/"]),
                    **self.attributes(XATTRS + USER_XATTRS, DIRECTORY_MODES)}
        if kind == "symlink":
            return {"type": b"2", "path": path, "link": self.target(), **self.attributes(XATTRS)}
        if kind == "device":
            return {"type": r.choice([b"3", b"4"]), "path": path,
                    "device": r.choice([(1, 3), (8, 1), (259, 300), (4095, 1048575)]), **self.attributes(XATTRS)}
        if kind == "fifo":
            return {"type": b"6", "path": path, **self.attributes(XATTRS)}
        return {"type": b"0", "path": path, "data": self.data(), **self.attributes(XATTRS + USER_XATTRS)}

    def layers(self):
        return [[self.entry() for _ in range(self.random.choice([0, 3, 10, 25, 60]))]
                for _ in range(self.random.randint(1, 7))]
