#!/usr/bin/env bash
# A node reads an image whose parts it asks of three others, and each time one of them goes in the midst of it: killed,
# stopped, cut off, cut off in one direction, or swallowing whoever dials it. Then all of them go; then each is replaced by
# another node while a fill runs. Every byte is right and no read fails.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"

readonly nodes=4 image_bytes=3000000
export READ_DEADLINE=20s
declare -A images=()

net_up
# Slow enough that homes are still waiting for the registry when one of them goes.
net_add origin 10mbit
for ((node = 1; node <= nodes; ++node)); do net_add "$node" 100mbit; done
start_origin
push() {
  mkdir "$work/tree-$1"
  head -c "${2:-$image_bytes}" /dev/urandom >"$work/tree-$1/file"
  push_at_origin "$work/tree-$1" "$1"
  images[$1]=$(image_by_digest "$1")
}

# start_one N [YAML LINE...]: as one of all, with the front end that BACKEND says.
start_one() { start_member "$1" $nodes 'refresh: 500ms' "${@:2}"; }
BACKEND=fuse start_one 1
export BACKEND=off
for ((node = 2; node <= nodes; ++node)); do start_one "$node"; done
tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }
# Of node 1.
knows_alive() { (($(metric sluice_members 'state="alive"') >= $1)); }
blob_of() { tool_of 1 --output json blob stat "$(data_blob_of "$1")" 2>/dev/null; }
has_begun() { [[ $(blob_of "$1" | jq '.present_bytes > 0') == true ]]; }
is_whole() { [[ $(blob_of "$1" | jq '.present_bytes == .size_bytes') == true ]]; }
knows_all() {
  use_node 1
  wait_until knows_alive $((nodes - 1)) || fail "node 1 does not know the others: $(sluice peers)"
}
knows_all

# reads_though NAME DISTURB...: node 1 mounts that image and reads all of it; the command runs when some of it is there.
reads_though() {
  local name=$1 reader
  use_node 1
  mkdir -p "$work/mnt-$name"
  tool_of 1 mount "${images[$name]}" "$work/mnt-$name" >&2
  reads_right "$work/tree-$name" "$work/mnt-$name" >"$work/reader.log" 2>&1 &
  reader=$!
  wait_until has_begun "$name" || fail "$name: node 1 does not begin to read"
  "${@:2}"
  use_node 1
  wait "$reader" || fail "$name: a read failed: $(tail -n 3 "$work/compare.log" "$work/reader.log")"
  tool_of 1 umount "$work/mnt-$name" >&2
}

kill_one() { use_node "$1" && stop_node KILL; }
pause_one() { use_node "$1" && kill -STOP "$node_pid"; }
# Its connections are gone, and nobody gets another.
swallow() {
  kill_one "$1"
  net_swallow_dials "$1"
  restart_node
}

for name in killed stopped parted deaf mute swallowed alone; do push $name; done

note "one is killed"
reads_though killed kill_one 2
start_one 2
note "one is stopped"
reads_though stopped pause_one 3
use_node 3
kill -CONT "$node_pid"
note "one is cut off from all"
reads_though parted net_isolate 4
net_mend 4
note "one hears nobody, and is heard"
reads_though deaf net_cut 1 2
net_mend 2
note "one hears, and is not heard"
reads_though mute net_cut 3 1
net_mend 1
note "one swallows who dials it"
reads_though swallowed swallow 4
net_mend 4
knows_all
(($(metric sluice_takeovers_total) > 0)) || fail "nobody was asked in the place of another"
(($(metric sluice_cut_off) == 0)) || fail "node 1 takes itself for cut off"

note "all are killed: the registry is the last resort"
kill_all() { for ((node = 2; node <= nodes; ++node)); do kill_one "$node"; done; }
last_resort=$(metric sluice_last_resort_bytes_total)
reads_though alone kill_all
(($(metric sluice_last_resort_bytes_total) > last_resort)) || fail "nothing came as a last resort"
cut_off() { (($(metric sluice_cut_off) == 1)); }
wait_until cut_off || fail "node 1 does not say that it is cut off"

note "each is replaced by another while a fill runs"
for ((node = 2; node <= nodes; ++node)); do start_one "$node"; done
use_node 1
reaches_others() { (($(metric sluice_cut_off) == 0)); }
wait_until reaches_others || fail "node 1 takes itself for cut off for ever"
push replaced 8000000
tool_of 1 prefetch submit "${images[replaced]}" >"$work/fill.log" 2>&1 &
fill=$!
wait_until has_begun replaced || fail "the fill does not begin"
for ((node = 2; node <= nodes; ++node)); do
  kill_one "$node"
  rm -rf "$data_dir"
  start_one "$node" "name: another-$node"
done
use_node 1
! is_whole replaced || note "the fill was over before all were replaced"
wait "$fill" || fail "the fill failed: $(tail -n 3 "$work/fill.log")"
is_whole replaced || fail "the fill ended without all of the blob"
blob=$(data_blob_of replaced)
[[ $(sha256sum "$data_dir"/blobs/*"${blob#sha256:}"* | cut -d' ' -f1) == "${blob#sha256:}" ]] || fail "the fill brought wrong bytes"
tool_of 1 --output json peers | jq -e '[.peers[] | select(.name | startswith("another-"))] | length == 3' >"$work/peers" ||
  fail "node 1 does not know who came: $(tool_of 1 peers)"
