#!/usr/bin/env bash
# Somebody empties or removes runtimeDir under a mounted image: the next daemon finds the living keeper, however it must,
# and nothing is unmounted.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 32M /dev/urandom >"$work/tree/a"
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
same() { cmp -s <(dd if="$mount/a" bs=1M skip="$1" count=1 status=none) <(dd if="$work/tree/a" bs=1M skip="$1" count=1 status=none); }
same 1 || fail "a read before"
exec 8<"$mount/a"
keeper=$(keeper_pid)

expect_same_keeper() {
  alive "$keeper" || fail "$1: the keeper is gone"
  [[ $(keeper_pid) == "$keeper" && $(pgrep -fc "^[^ ]*sluice-keeper.*$work") == 1 ]] || fail "$1: there is another keeper"
  mountpoint -q "$mount" || fail "$1: the image was unmounted"
  if grep -q ALARM "$node_log"; then fail "$1: an alarm: $(grep ALARM "$node_log")"; fi
}

block=4
wiped() { # wiped TEXT COMMAND...: while the node runs
  local text=$1
  shift
  "$@"
  same $((block += 1)) || fail "$text: reads do not go on"
  stop_node
  restart_node
  expect_same_keeper "$text"
  same $((block += 1)) || fail "$text: reads fail after the restart"
}
wiped "emptied" find "$run_dir" -mindepth 1 -delete
wiped "removed" rm -rf "$run_dir"
wiped "both sockets removed" rm -f "$run_dir/keeper.sock" "$data_dir/keeper.sock"
wiped "locks and sockets removed" rm -f "$run_dir"/keeper.* "$data_dir/keeper.sock"

# Another runtimeDir.
stop_node
sed -i "s|^runtimeDir:.*|runtimeDir: $work/other|" "$config"
restart_node
expect_same_keeper "another runtimeDir"
cmp -s <(dd bs=1M skip=20 count=1 status=none <&8) <(dd if="$work/tree/a" bs=1M skip=20 count=1 status=none) ||
  fail "who had a file open can't read on"
exec 8<&-
run_dir=$work/other

# It is killed after that: its successor needs the folder.
rm -rf "$run_dir"
kill -KILL "$keeper"
successor() { [[ -n $(keeper_pid) && $(keeper_pid) != "$keeper" ]]; }
wait_until successor || fail "no successor is started"
wait_until same 24 || fail "reads fail through the successor"
