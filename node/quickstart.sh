#!/usr/bin/env bash
# Shows what Sluice does, on this machine, from nothing: see usage.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'END'
usage: bash node/quickstart.sh [--keep] [--backend fanotify|fuse|auto] [--link RATE,DELAY|none]

Installs what is missing (Debian 12, as root), builds, starts a registry, pushes an ordinary image of a Debian root
file system to it, makes a lazy image of that, starts a node with an empty store, mounts the image and runs a Python
program from the mount, while only what the program reads is fetched. Then it says what that took beside a full
download of the ordinary image, fills the image, and runs the program once more on a second node with an empty store,
which gets the image from the first.

  --keep             leave the registry, the nodes and the mounts running, and say what to try
  --backend NAME     the kernel front end to use (default: auto)
  --link RATE,DELAY  how far the registry is away: the most per second in each direction, and the time there and
                     back (default: 100mbit,10ms). "none": it is on loopback, as it is where no such link can be made

The last line of standard output is JSON; all else goes to standard error.
END
}

keep=no
BACKEND=auto
link=100mbit,10ms
while (($#)); do
  case $1 in
    --keep) keep=yes ;;
    --backend) BACKEND=${2:?--backend needs a name}; shift ;;
    --backend=*) BACKEND=${1#*=} ;;
    --link) link=${2:?--link needs RATE,DELAY or none}; shift ;;
    --link=*) link=${1#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
export BACKEND
[[ $link == none || $link =~ ^[0-9]+[kmg]bit,[0-9]+ms$ ]] ||
  { echo "quickstart: --link $link: expected RATE,DELAY, such as 100mbit,10ms, or none" >&2; exit 2; }
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
cmake --build --preset release --target sluiced sluice sluice-keeper delay_relay >&2

# From here on, whatever is started or mounted is taken away again on exit.
source tests/e2e/lib.sh
source tests/e2e/lib_images.sh
source tests/e2e/lib_nodes.sh
source tests/net/lib_link.sh
use_node 1

# at_registry SCRIPT: runs it on the registry's side of the link.
at_registry() {
  registry=$registry work=$work "${registry_runner[@]}" bash -c "set -euo pipefail; $1"
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

step 3 "unpacking a Debian root file system, to compare with"
layer=$(root_layer)
mkdir "$work/tree"
tar --numeric-owner --xattrs -C "$work/tree" -xpf "$(root_tarball)"

step 4 "pushing it as an ordinary image to a registry, and making a lazy image of that"
if [[ $link != none ]] && ! reason=$(can_link); then
  note "the registry stays on loopback, since no link to it can be made: $reason"
  link=none
fi
if [[ $link == none ]]; then
  start_registry
else
  delay=${link#*,}
  link_up "${link%,*}" "$(awk -v ms="${delay%ms}" 'BEGIN { print ms / 2 }')"
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
fi
reference=$registry/debian:1
write_config "$(cluster_config 1 2)"
# On the registry's side of the link: images are made where they are built.
at_registry "$(declare -f upload put_manifest push_ordinary); push_ordinary debian-ordinary '$layer'"
at_registry "'$SLUICE_BIN/sluice' image push --plain-http $registry/debian-ordinary:1 $reference" >&2

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
fetched_plain_bytes=$(metric sluice_origin_plain_bytes_total)

step 7 "downloading the ordinary image for comparison, and checking what was read"
mapfile -t layers < <(manifest debian-ordinary | jq -r '.layers[].digest')
image_bytes=$(manifest debian-ordinary | jq '[.layers[].size] | add')
lazy_bytes=$(manifest debian | jq '[.layers[].size] | add')
drop_page_cache
mkdir "$work/download"
started=$EPOCHREALTIME
for layer in "${layers[@]}"; do
  curl -fsS "http://$registry/v2/debian-ordinary/blobs/$layer" | tar --numeric-owner -C "$work/download" -xpz
done
full_seconds=$(seconds_since "$started")
rm -rf "$work/download"

verified=true
sample_is_right || verified=false
sluice blob verify "$(data_blob_of debian)" >&2 || verified=false

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

  the ordinary image                   $(megabytes "$image_bytes") (the lazy one: $(megabytes "$lazy_bytes"))
  fetched until the program had run    $(megabytes "$fetched_bytes") ($((100 * fetched_bytes / image_bytes)) %), $(megabytes "$fetched_plain_bytes") once unpacked
  mounted and run after                $ready_seconds s
  the ordinary image takes             $full_seconds s to download and unpack (the same link: $link)
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

In a browser: http://$listen/ and http://${node_listens[2]}/, the nodes' own pages

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

jq -nc --arg link "$link" --argjson image "$image_bytes" --argjson fetched "$fetched_bytes" \
  --argjson plain "$fetched_plain_bytes" --argjson ready "$ready_seconds" --argjson full "$full_seconds" \
  --argjson verified "$verified" --argjson second_origin "$second_origin_bytes" --argjson second_ready "$second_ready_seconds" \
  '{image_bytes: $image, fetched_bytes: $fetched, fetched_plain_bytes: $plain, ready_seconds: $ready,
    full_seconds: $full, link: $link, verified: $verified, second_origin_bytes: $second_origin,
    second_ready_seconds: $second_ready}'
[[ $verified == true ]] && ((second_origin_bytes == 0))
