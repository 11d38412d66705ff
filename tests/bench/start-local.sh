# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_*.sh set and use the rest
# Starts of programs with a profile, on an empty node whose registry is behind 1 Gbit/s and 2 ms, beside the same start on
# a node that has all of the image on its disk and nothing in memory: from when the mount is asked for until the program
# would have ended. With the case TRACE/mounted beside it is a start from a mount that is there already. Arguments: the
# traces; default: all.

# shellcheck source=tests/bench/lib_start.sh
source tests/bench/lib_start.sh

readonly empty_dir=$data_dir complete_dir=$work/complete

# use_complete: the node, with a store that has all of the image.
use_complete() {
  [[ -z $node_pid ]] || stop_node
  data_dir=$complete_dir
  start_node
}

fetched_since() { (($(metric sluice_origin_blob_bytes_total) > $1)); }

start_complete() {
  local before both
  use_complete
  before=$(metric sluice_origin_blob_bytes_total)
  timed_start
  local_took=$took
  mount_image lazy "$mount"
  drop_page_cache
  both=$(replay "$trace" "$mount" "$EPOCHREALTIME") || fail "the replay of '$trace' failed"
  mounted_took=${both% *} own=${both#* }
  sluice umount "$mount" >&2
  if fetched_since "$before"; then fail "the complete node fetches from the registry"; fi
}

start_far() {
  [[ -z $node_pid ]] || stop_node
  data_dir=$empty_dir
  start_with_profile
  note_busy "$series-busy"
}

make_complete() {
  mount=$work/mnt/lazy
  use_complete
  mount_image lazy "$mount"
  sluice prefetch submit "$registry/lazy:1" >&2
  sluice umount "$mount" >&2
}

measure_trace() {
  local trace=$1 series=$work/$1 run took fetched ours ours_fetched local_took mounted_took own
  trace_fits "$trace"
  for ((run = 0; run < runs; ++run)); do
    in_turns "$run" start_far start_complete
    note "$trace: ours $ours s and $ours_fetched bytes from the registry, from the complete node $local_took s, from its" \
      "mount $mounted_took s, of which $own s are the program's own"
    echo "$ours $local_took" >>"$series-local"
    echo "$ours $mounted_took" >>"$series-mounted"
  done
  report time_over_local ratio --case "$trace" --pairs-min "$runs" --also "$(most_busy "$series-busy")" \
    --names ours_seconds,local_seconds <"$series-local"
  report time_over_local ratio --case "$trace/mounted" --pairs-min "$runs" --also "$(most_busy "$series-busy")" \
    --names ours_seconds,local_seconds <"$series-mounted"
}

measure() {
  local -x START_PROFILES=on
  local traces=("$@") each
  runs=${RUNS:-5}
  ((${#traces[@]})) || mapfile -t traces < <(trace_names)
  for each in "${traces[@]}"; do [[ -v trace_programs[$each] ]] || fail "there is no trace '$each'"; done
  unpack_trace_image
  link_up 1gbit 1
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  at_registry "'$SLUICE_BIN/sluice' image push --plain-http $work/tree $registry/lazy:1" >&2
  make_complete
  for each in "${traces[@]}"; do measure_trace "$each"; done
}
