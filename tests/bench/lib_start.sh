# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh, the other lib_*.sh and the scenarios set and use the rest
# Starts of programs on a node whose registry is behind a link, replayed from recorded traces: the first, and with what
# an earlier start has told. Sourced by scenarios.

# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh
# shellcheck source=tests/bench/lib_busy.sh
source tests/bench/lib_busy.sh
# shellcheck source=tests/bench/lib_trace.sh
source tests/bench/lib_trace.sh

# at_registry SCRIPT: runs it on the registry's side of the link, where images are made.
at_registry() { registry=$registry work=$work "${registry_runner[@]}" bash -c "set -euo pipefail; $1"; }

# start_empty READAHEAD: the node, with an empty store.
start_empty() {
  [[ -z $node_pid ]] || stop_node
  rm -rf "$data_dir"
  start_node 'fetch:' "  readahead: $1"
  mount=$work/mnt/lazy
  mkdir -p "$mount"
}

# timed_start: on the node that is used, by an asker that need not be read from disk first; sets took, fetched (bytes of blobs from the registry) and what busy_end does.
timed_start() {
  local started both
  drop_page_cache
  sluice --help >"$work/asker.log"
  busy_begin
  started=$EPOCHREALTIME
  mount_image lazy "$mount"
  both=$(replay "$trace" "$mount" "$started") || fail "the replay of '$trace' failed"
  busy_end
  took=${both% *} fetched=$(metric sluice_origin_blob_bytes_total)
  sluice umount "$mount" >&2
}

recorded() { [[ -s $(echo "$data_dir"/profiles/*.json) ]]; }

# The node starts the program once, and then again with an empty store, of which it keeps what is known of the start
# alone: as another node of its cluster would, which is told before it mounts the image.
start_with_profile() {
  start_empty adaptive
  timed_start
  wait_until recorded || fail "the first start was not recorded"
  rm -rf "$work/profiles"
  cp -r "$data_dir/profiles" "$work/profiles"
  start_empty adaptive
  cp -r "$work/profiles" "$data_dir/profiles"
  timed_start
  ours=$took ours_fetched=$fetched
}
