#!/usr/bin/env python3
"""Holds the floor plan: which folder may include which, and which library's headers may appear where.

usage: include_arrows.py ROOT

A header that is in none of the tables below is an error too: a new dependency is a decision, made here.
"""

import dataclasses
import pathlib
import re
import sys

from sources import CPP, source_files

STANDARD = set("""
    algorithm any array atomic barrier bit bitset cassert cctype cerrno cfloat charconv chrono cinttypes climits
    clocale cmath compare complex concepts condition_variable csetjmp csignal cstdarg cstddef cstdint cstdio
    cstdlib cstring ctime cwchar deque exception execution filesystem forward_list fstream functional future
    initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory
    memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex scoped_allocator
    semaphore set shared_mutex source_location span sstream stack stdexcept stop_token streambuf string
    string_view syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set
    utility valarray variant vector version
    assert.h errno.h inttypes.h limits.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h string.h time.h
""".split())

# What the C library and the kernel give beyond ISO C and C++.
SYSTEM = re.compile(r"(sys|linux|asm|arpa|net|netinet)/[\w/]+\.h|"
                    r"(dirent|dlfcn|endian|fcntl|fnmatch|getopt|glob|grp|ifaddrs|locale|mntent|netdb|poll|pthread|pwd|sched|"
                    r"signal|spawn|strings|syslog|termios|ucontext|ulimit|unistd|wait)\.h")

LIBRARIES = {
    "absl": re.compile(r"absl/"),
    "ares": re.compile(r"ares\.h"),
    "asio": re.compile(r"boost/(asio|beast|system)[/.]"),
    "cli11": re.compile(r"CLI/"),
    "curl": re.compile(r"curl/"),
    "fmt": re.compile(r"fmt/"),
    "grpc": re.compile(r"grpc(pp)?/|grpc\+\+/|.*\.grpc\.pb\.h"),
    "json": re.compile(r"nlohmann/"),
    "libtorrent": re.compile(r"libtorrent/"),
    "openssl": re.compile(r"openssl/"),
    "prometheus": re.compile(r"prometheus/"),
    "protobuf": re.compile(r"google/protobuf/|.*\.pb\.h"),
    "rocksdb": re.compile(r"rocksdb/"),
    "spdlog": re.compile(r"spdlog/"),
    "systemd": re.compile(r"systemd/"),
    "yaml": re.compile(r"yaml-cpp/"),
    "zlib": re.compile(r"zlib\.h"),
    "zstd": re.compile(r"zstd(_errors)?\.h"),
}


@dataclasses.dataclass(frozen=True)
class Room:
    """What the files of a folder, and of those below it that have no entry of their own, may include."""
    sees: tuple  # folders of the project, besides its own
    libraries: tuple = ()
    system: bool = True
    libraries_in_headers: tuple = ("absl",)


P2P = ("p2p/http", "p2p/registry", "p2p/recipe", "p2p/cluster", "p2p/swarm")
ALL_ROOMS = ("node", "node/tls", "index", "ondemand", "api", "api/http") + P2P
FLOOR_PLAN = {
    "node": Room(sees=(), libraries=("absl",), system=False),
    "index": Room(sees=("node",), libraries=("absl", "rocksdb", "openssl")),
    "p2p": Room(sees=("node",)),
    # Certificates, as both sides of a connection between nodes need them.
    "node/tls": Room(sees=("node",), libraries=("absl", "openssl")),
    "p2p/http": Room(sees=("node", "node/tls"), libraries=("absl", "curl")),
    "p2p/recipe": Room(sees=("node", "p2p/http"), libraries=("absl", "openssl", "libtorrent")),
    "p2p/registry": Room(sees=("node", "p2p/http", "p2p/recipe"), libraries=("absl", "curl", "json", "zstd")),
    "p2p/cluster": Room(sees=("node", "node/tls", "p2p/http", "p2p/recipe", "p2p/registry"), libraries=("absl", "ares", "json")),
    # Its headers that name libtorrent are private to it: swarm.h, which others include, names none of it.
    "p2p/swarm": Room(
        sees=("node", "p2p/http", "p2p/recipe"),
        libraries=("absl", "asio", "libtorrent"),
        libraries_in_headers=("absl", "libtorrent")),
    "ondemand": Room(sees=("node", "ondemand/keeper"), libraries=("absl",)),
    "ondemand/keeper": Room(sees=(), libraries=(), libraries_in_headers=()),
    "api": Room(sees=("node", "api/http"), libraries=("absl", "grpc", "protobuf")),
    # Its headers that name asio are private to it: http_server.h, which others include, names none of it.
    "api/http": Room(
        sees=("node", "node/tls"),
        libraries=("absl", "asio", "prometheus"),
        libraries_in_headers=("absl", "asio")),
    "node/image": Room(
        sees=("node", "ondemand") + P2P,
        libraries=("absl", "json", "zlib", "zstd")),
    "node/daemon": Room(
        sees=ALL_ROOMS,
        libraries=("absl", "asio", "cli11", "fmt", "grpc", "json", "protobuf", "spdlog", "systemd", "yaml"),
        libraries_in_headers=("absl", "asio", "cli11", "fmt", "grpc", "json", "protobuf", "spdlog", "yaml")),
    "node/cli": Room(
        sees=ALL_ROOMS + ("node/daemon", "node/image"),
        libraries=("absl", "cli11", "fmt", "grpc", "json", "openssl", "protobuf", "spdlog", "yaml"),
        libraries_in_headers=("absl", "cli11", "fmt", "grpc", "json", "protobuf", "spdlog", "yaml")),
}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def room_of(folder):
    """The name of the entry of FLOOR_PLAN that governs `folder`, or None."""
    while folder not in FLOOR_PLAN:
        if "/" not in folder:
            return None
        folder = folder.rpartition("/")[0]
    return folder


def library_of(header):
    for name, pattern in LIBRARIES.items():
        if pattern.match(header):
            return name
    return None


def complaint(path, header):
    """Why the file at `path` must not include `header`, or None if it may."""
    room_name = room_of(path.parent.as_posix())
    room = FLOOR_PLAN[room_name]

    target = room_of(header.rpartition("/")[0]) if "/" in header else None
    if target is not None and library_of(header) not in ("grpc", "protobuf"):
        if target == room_name or target in room.sees:
            return None
        return f"{room_name}/ may not see {target}/"

    library = library_of(header)
    if library is not None:
        if library not in room.libraries:
            return f"{room_name}/ may not use {library}"
        if path.suffix == ".h" and library not in room.libraries_in_headers:
            return f"{library} stops at the .cc files of {room_name}/"
        return None

    if header in STANDARD:
        return None
    if SYSTEM.fullmatch(header):
        return None if room.system else f"{room_name}/ keeps to the standard library and absl"
    return "unknown header: write it out from the root, or add its library to tests/tidy/include_arrows.py"


def check(root):
    """Complaints about all files under `root`, as "path:line: #include ...: why"."""
    complaints = []
    for path in source_files(root, CPP):
        if room_of(path.parent.as_posix()) is None:
            continue
        text = (pathlib.Path(root) / path).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            match = INCLUDE.match(line)
            why = complaint(path, match.group(1)) if match else None
            if why:
                complaints.append(f"{path}:{number}: #include {match.group(1)}: {why}")
    return complaints


def main():
    complaints = check(sys.argv[1])
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
