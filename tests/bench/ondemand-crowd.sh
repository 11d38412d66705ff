# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Eight nodes mount an image cold and replay one program's reads at once, nothing being filled; all links have 100 Mbit/s,
# and the registry is 36 ms of round trip away. Beside one node alone; and what the registry sends beside what is read.

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

readonly nodes=8 chunks=${CHUNKS:-125}

# replay_all NODE...: each begins within 50 ms; sets slowest and sent.
replay_all() {
  local node replays=() sent_before
  rm -f "$work/go" "$work"/replay-*
  for node in "$@"; do
    use_node "$node"
    sluice mount "$image" "$work/node$node/mnt" >&2
    python3 -B tests/bench/replay_reads.py --file "$work/node$node/mnt/file" --like "$work/tree/file" --seed "$run" \
      --chunks "$chunks" --go "$work/go" --delay "0.0$((RANDOM % 50 + 10))" >"$work/replay-$node" &
    replays+=($!)
  done
  sent_before=$(net_sent origin)
  busy_begin
  touch "$work/go"
  for node in "${replays[@]}"; do wait "$node" || fail "a replay failed"; done
  busy_end
  sent=$(($(net_sent origin) - sent_before))
  slowest=$(sort -n "$work"/replay-* | tail -n 1)
  end_nodes "$@"
}

alone_run() {
  start_cold 1 1 1
  replay_all 1
  alone=$slowest
  note "alone: $slowest s, $sent bytes from the registry; busy: processor $cpu_busy, disk $disk_busy"
}

crowd_run() {
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  replay_all "${everyone[@]}"
  note "all: the slowest $slowest s, $sent bytes from the registry; busy: processor $cpu_busy, disk $disk_busy"
}

measure() {
  local run image blob blob_bytes image_bytes everyone alone slowest sent metrics=(origin_over_touched slowest_over_alone)
  mapfile -t everyone < <(seq "$nodes")
  crowd_up "$nodes" 100mbit 18
  push_random_image crowd "${BYTES:-$((128 << 20))}"
  for ((run = 0; run < runs; ++run)); do
    quiet_run alone_run || { report_too_busy "$nodes" "${metrics[@]}"; fail "the machine is too busy"; }
    quiet_run crowd_run || { report_too_busy "$nodes" "${metrics[@]}"; fail "the machine is too busy"; }
    echo "$sent $((chunks * (256 << 10)))" >>"$work/touched"
    echo "$slowest $alone" >>"$work/slowest"
  done
  report_crowd origin_over_touched ratio "$nodes" --names origin_bytes,touched_bytes <"$work/touched"
  report_crowd slowest_over_alone ratio "$nodes" --names slowest_s,alone_s <"$work/slowest"
}
