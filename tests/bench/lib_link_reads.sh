# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set and use the rest
# A node whose registry is behind 100 Mbit/s and 36 ms, and reads of absent chunks of one image through its mount, every
# so often, as something else goes on. Sourced by scenarios.

# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh
# shellcheck source=tests/bench/lib_busy.sh
source tests/bench/lib_busy.sh

# start_far_registry
start_far_registry() {
  link_up 100mbit 18
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
}

# push_random NAME BYTES: an image of one file that can't be compressed, as $registry/NAME:1; the file is
# $work/tree-NAME/file.
push_random() {
  mkdir "$work/tree-$1"
  head -c "$2" /dev/urandom >"$work/tree-$1/file"
  on_far_end "$SLUICE_BIN/sluice" image push --plain-http "$work/tree-$1" "$registry/$1:1" >&2
}

# start_with_nothing [YAML LINE...]: the node, with an empty store.
start_with_nothing() {
  [[ -z $node_pid ]] || stop_node
  rm -rf "$data_dir"
  start_node "$@"
}

# read_times NAME SKIP [OPTION...]: of reads of $work/mnt/NAME/file, without the first SKIP of the run: the median, the
# 99th percentile, and how many there were.
read_times() {
  python3 -B tests/bench/timed_reads.py --mounted "$work/mnt/$1/file" --like "$work/tree-$1/file" \
    --metrics "http://$listen/metrics" --skip "$2" --count "$reads" --seed "$run" "${@:3}" || fail "the reads failed"
}
