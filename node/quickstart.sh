#!/usr/bin/env bash
# Shows what Sluice does, on this machine, from nothing: see usage.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: bash node/quickstart.sh [--keep] [--backend fanotify|fuse|auto]

Installs what is missing (Debian 12, as root), builds, starts a registry on loopback, pushes an image of a Debian
root file system, starts a node with an empty store, mounts the image and runs a Python program from the mount,
while only what the program reads is fetched. Then it says what that took beside a full download, fills the image, and
runs the program once more on a second node with an empty store, which gets the image from the first.

  --keep             leave the registry, the nodes and the mounts running, and say what to try
  --backend NAME     the kernel front end to use (default: auto)

The last line of standard output is JSON; all else goes to standard error.
END
}

keep=no
BACKEND=auto
while (($#)); do
  case $1 in
    --keep) keep=yes ;;
    --backend) BACKEND=${2:?--backend needs a name}; shift ;;
    --backend=*) BACKEND=${1#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
export BACKEND
((EUID == 0)) || { echo "quickstart: mounting needs root; try: sudo bash node/quickstart.sh" >&2; exit 2; }

readonly steps=9
step() { printf '\n[%s/%s] %s\n' "$1" "$steps" "$2" >&2; }
seconds_since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.3f", to - from }'; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }

step 1 "installing packages that are missing"
source tests/packages.sh
install_packages "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_RUN_PACKAGES[@]}" "${SLUICE_QUICKSTART_PACKAGES[@]}"

step 2 "building (the first time takes a while)"
cmake --preset release >&2
cmake --build --preset release --target sluiced sluice sluice-keeper >&2

# From here on, whatever is started or mounted is taken away again on exit.
source tests/e2e/lib.sh
source tests/e2e/lib_nodes.sh
use_node 1

# Where this machine's apt gets Debian bookworm from.
bookworm_mirror() {
  # shellcheck disable=SC2016  # the variable is apt's
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
    head -n 1
}

# A Debian root file system that can run Python, from the cache or else from the configured mirror.
unpack_root_tree() {
  local include=python3,perl,git,gcc cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice mirror tarball
  tarball=$cache/debian-bookworm-$(dpkg --print-architecture)-minbase-${include//,/-}.tar
  mkdir -p "$1"
  if [[ ! -s $tarball ]]; then
    mirror=$(bookworm_mirror)
    [[ -n $mirror ]] || { apt-get update -qq >&2; mirror=$(bookworm_mirror); }
    [[ -n $mirror ]] || fail "apt has no mirror of Debian bookworm configured"
    note "no root file system at hand; debootstrap makes one, kept for later runs in $cache"
    debootstrap --variant=minbase --include="$include" --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
      bookworm "$work/bootstrap" "$mirror" >"$work/debootstrap.log" 2>&1 ||
      fail "debootstrap: $(tail -n 3 "$work/debootstrap.log")"
    # The downloaded packages would only pad the image with bytes that no program reads.
    rm -rf "$work"/bootstrap/var/cache/apt/archives/*.deb "$work"/bootstrap/var/lib/apt/lists/*
    mkdir -p "$cache"
    tar --numeric-owner --xattrs -C "$work/bootstrap" -cf "$tarball.new" .
    mv "$tarball.new" "$tarball"
    rm -rf "$work/bootstrap"
  fi
  tar --numeric-owner --xattrs -C "$1" -xpf "$tarball"
}

# run_program DIR: runs the program from a mounted image.
run_program() {
  local output
  output=$(chroot "$1" /usr/bin/python3 -c "$program")
  [[ $output == "$expected" ]] || fail "the program printed '$output', not '$expected'"
  note "it printed: $output"
}

# 200 files of the mount, drawn at random, and those that the program ran from, beside the tree they came from.
sample_is_right() {
  (cd "$work/tree" && {
    find usr/bin usr/lib etc -type f | LC_ALL=C sort | shuf -n 200 --random-source=<(yes)
    find usr/bin/python3.11 usr/lib/python3.11/asyncio -type f
  }) >"$work/sample"
  (cd "$work/tree" && xargs -d '\n' sha256sum <"$work/sample") >"$work/sample.sha256"
  (cd "$mount" && sha256sum --check --quiet "$work/sample.sha256") >&2
}

step 3 "unpacking a Debian root file system"
unpack_root_tree "$work/tree"

step 4 "pushing it as an image to a registry on loopback"
start_registry
reference=$registry/debian:1
write_config "$(cluster_config 1 2)"
push_tree "$work/tree" debian

step 5 "starting a node with an empty store"
start_member 1 2

step 6 "mounting the image and running Python from it"
mount=$work/mnt/debian
mkdir -p "$mount"
drop_page_cache
program='import ssl, sqlite3, asyncio, email, xml.dom.minidom, hashlib
connection = sqlite3.connect(":memory:")
print(asyncio.run(asyncio.sleep(0, connection.execute("select 6 * 7").fetchone()[0])), hashlib.sha256(b"sluice").hexdigest())'
expected="42 $(printf sluice | sha256sum | cut -d' ' -f1)"
started=$EPOCHREALTIME
mount_image debian "$mount"
run_program "$mount"
ready_seconds=$(seconds_since "$started")
fetched_bytes=$(metric sluice_origin_bytes_total)

step 7 "downloading the whole image for comparison, and checking what was read"
mapfile -t layers < <(manifest debian | jq -r '.layers[].digest')
image_bytes=$(manifest debian | jq '[.layers[].size] | add')
drop_page_cache
started=$EPOCHREALTIME
for layer in "${layers[@]}"; do download debian "$layer" "$work/download"; done
full_seconds=$(seconds_since "$started")
rm "$work/download"

verified=true
sample_is_right || verified=false
sluice blob verify "${layers[0]}" >&2 || verified=false

step 8 "filling the image on the first node, by a hint"
sluice prefetch submit "$reference" >&2

step 9 "running the program on a second node with an empty store, from the first"
start_member 2 2
second_mount=$work/node2/mnt/debian
drop_page_cache
started=$EPOCHREALTIME
mount_image debian "$second_mount"
run_program "$second_mount"
second_ready_seconds=$(seconds_since "$started")
second_origin_bytes=$(metric sluice_origin_blob_bytes_total)
second_peer_bytes=$(metric sluice_peer_received_bytes_total)
second_log=$node_log
use_node 1

cat >&2 <<END

  image                                $(megabytes "$image_bytes")
  fetched until the program had run    $(megabytes "$fetched_bytes") ($((100 * fetched_bytes / image_bytes)) %)
  mounted and run after                $ready_seconds s
  a full download takes                $full_seconds s (the same link: loopback)
  contents verified                    $verified
  a second node mounted and ran after  $second_ready_seconds s: $(megabytes "$second_peer_bytes") from the first node, $(megabytes "$second_origin_bytes") of blobs from the registry
END

if [[ $keep == yes ]]; then
  trap - EXIT INT TERM
  cat >&2 <<END

Left running, all of it under $work:
  registry    $registry
  node        process $node_pid, configuration $config, log $node_log
  mount       $mount
  second node process ${node_pids[2]}, metrics http://${node_listens[2]}/metrics, log $second_log, mount $second_mount

Try:
  alias sluice='$SLUICE_BIN/sluice --socket $run_dir/api.sock'
  chroot $mount python3
  sluice status
  sluice image inspect $reference
  sluice blob ls
  curl http://$listen/metrics
  kill -9 $node_pid; $SLUICE_BIN/sluiced --config $config    # readers wait meanwhile

When done:
  sluice umount $mount
  $SLUICE_BIN/sluice --socket $work/node2/run/api.sock umount $second_mount
  kill $node_pid ${node_pids[2]} $registry_pid; rm -rf $work
END
fi

printf '{"image_bytes":%s,"fetched_bytes":%s,"ready_seconds":%s,"full_seconds":%s,"verified":%s,"second_origin_bytes":%s,"second_ready_seconds":%s}\n' \
  "$image_bytes" "$fetched_bytes" "$ready_seconds" "$full_seconds" "$verified" "$second_origin_bytes" \
  "$second_ready_seconds"
[[ $verified == true ]] && ((second_origin_bytes == 0))
