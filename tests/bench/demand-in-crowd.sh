# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Eight nodes are cold and want the same 128 MiB at once, over links that are all as fast as the registry's, and one of
# them reads a random absent chunk of 256 KiB every 500 ms meanwhile; beside the same reads before the others want anything.

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

readonly nodes=8 idle_reads=${READS:-30}

# timed_reads SKIP OPTION...
timed_reads() {
  "${node_runner[@]}" python3 -B tests/bench/timed_reads.py --mounted "$work/node$nodes/mnt/file" --like "$work/tree/file" \
    --metrics "http://$listen/metrics" --seed "$run" --skip "$@" || fail "the reads failed"
}

crowd_run() {
  local node
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  use_node "$nodes"
  sluice mount "$image" "$work/node$nodes/mnt" >&2
  idle=$(timed_reads 0 --count "$idle_reads")
  touch "$work/filling"
  busy_begin
  timed_reads "$idle_reads" --until "$work/filling" >"$work/beside" &
  reader=$!
  pull_all "$image" "${everyone[@]}"
  busy_end
  rm "$work/filling"
  wait "$reader" || fail "the reads failed"
  beside=$(<"$work/beside")
  end_nodes "${everyone[@]}"
  note "idle $idle, in the crowd $beside (median and p99 in s, and how many); all have it after $makespan s;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

measure() {
  local run image blob blob_bytes image_bytes everyone idle beside reader
  mapfile -t everyone < <(seq "$nodes")
  crowd_up "$nodes" 100mbit
  push_random_image crowd "${BYTES:-$((128 << 20))}"
  for ((run = 0; run < runs; ++run)); do
    quiet_run crowd_run || { report_too_busy "$nodes" p50_ratio p99_ratio; fail "the machine is too busy"; }
    echo "${beside%% *} ${idle%% *}" >>"$work/p50"
    awk '{ print $5, $2 }' <<<"$idle $beside" >>"$work/p99"
  done
  report_crowd p50_ratio ratio "$nodes" --names in_crowd_s,idle_s <"$work/p50"
  report_crowd p99_ratio ratio "$nodes" --names in_crowd_s,idle_s <"$work/p99"
}
