#!/usr/bin/env bash
# kill -9 of sluiced, and of the keeper, at random moments of a tar of a cold mount. The tar's checksum is right, or
# (keeper only) the reader got an error; never zeros.
source "$(dirname "$0")/lib.sh"

readonly daemon_kills=${DAEMON_KILLS:-20} keeper_kills=${KEEPER_KILLS:-5} tries_max=10

# random_between LOW HIGH: of a second, e.g. 0.0 0.2
random_between() { awk -v low="$1" -v high="$2" -v draw="$RANDOM" 'BEGIN { print low + (high - low) * draw / 32768 }'; }

# tar_under_way SECONDS: starts a tar of the cold mount and waits for a moment, that long at most; sets reader.
# Returns 1 if tar was faster.
tar_under_way() {
  make_cold app "$mount"
  checksum_of "$mount" >"$work/sum" 2>"$work/tar.log" &
  reader=$!
  sleep "$(random_between 0 "$1")"
  alive "$reader" && return
  wait "$reader" || fail "tar failed though nothing was killed: $(cat "$work/tar.log")"
  return 1
}

catch_tar_under_way() {
  local try most=$tar_seconds
  for ((try = 0; try < tries_max; ++try)); do
    if tar_under_way "$most"; then return; fi
    most=$(awk -v most="$most" 'BEGIN { print most / 2 }')  # the one that was measured may have been slow
  done
  fail "tar was always over before the kill"
}

sum_is_right() { [[ $(<"$work/sum") == "$expected" ]]; }

kill_daemon_round() {
  catch_tar_under_way
  stop_node KILL
  sleep "$(random_between 0 0.3)"
  restart_node
  wait "$reader" || fail "tar failed: $(cat "$work/tar.log")"
  sum_is_right || fail "tar read wrong bytes"
}

kill_keeper_round() {
  local before
  catch_tar_under_way
  before=$(keeper_pid)
  kill -KILL "$before"
  if wait "$reader"; then
    sum_is_right || fail "tar read wrong bytes and saw no error"
  else
    note "tar got an error: $(head -n 1 "$work/tar.log")"
  fi
  wait_until replaced "$before" || fail "no new keeper after 60 s"
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong after the keeper was replaced"
}

replaced() { local now; now=$(keeper_pid) && [[ -n $now && $now != "$1" ]]; }

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes "${TREE_BYTES:-128000000}" --files 400
expected=$(checksum_of "$work/tree")
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"

drop_page_cache
started=$EPOCHREALTIME
[[ $(checksum_of "$mount") == "$expected" ]] || fail "tar reads wrong bytes though nothing was killed"
tar_seconds=$(awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }')

for ((round = 1; round <= daemon_kills; ++round)); do
  kill_daemon_round
  note "daemon, round $round of $daemon_kills: right"
done
for ((round = 1; round <= keeper_kills; ++round)); do
  kill_keeper_round
  note "keeper, round $round of $keeper_kills: right, or an error"
done
