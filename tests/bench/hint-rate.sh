# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# How fast hints are taken by a node that has one processor, while their registry is silent, so that they stay queued:
# accepted per second, one or 100 in a call, by four clients at once, and per second of the node's processor time, in
# which their cancelling is; and the median acknowledgement of a hint beside a call of a server that answers at once
# with nothing, on the same processor.

readonly hints=${HINTS:-8000} calls=${CALLS:-2000}
empty_pid=

measure_acks() { "$tools/hint_calls" acks "$run_dir/prefetch.sock" "$reference" "ack-$run" "$calls" >"$work/ack"; }
measure_empty() { "$tools/hint_calls" empty "$work/empty.sock" "$calls" >"$work/empty"; }
# measure_rate PER_CALL CASE: adds to the case's two series.
measure_rate() {
  local cpu_before
  cpu_before=$(cpu_seconds "$node_pid")
  "$tools/hint_calls" rate "$run_dir/prefetch.sock" "$reference" "$2-$run" "$hints" "$1" >>"$work/rate-$2"
  awk -v hints="$hints" -v seconds="$(difference "$(cpu_seconds "$node_pid")" "$cpu_before")" \
    'BEGIN { print hints / (seconds > 0.01 ? seconds : 0.01) }' >>"$work/cpu-$2"
}

measure() {
  local run reference
  start_registry
  reference=$registry/app:1
  # shellcheck disable=SC2034  # lib.sh's
  node_runner=(taskset -c 0)
  LOG_LEVEL=warn start_node
  taskset -c 0 "$tools/hint_calls" serve "$work/empty.sock" >"$work/empty.log" 2>&1 &
  empty_pid=$!
  wait_until test -S "$work/empty.sock" || fail "the empty server does not listen: $(<"$work/empty.log")"
  kill -STOP "$registry_pid"
  for ((run = 1; run <= pairs; run++)); do
    in_turns "$run" measure_acks measure_empty
    paste -d' ' "$work/ack" "$work/empty" >>"$work/acks"
    measure_rate 1 single
    measure_rate 100 batch
  done
  kill "$empty_pid"
  report ack_ratio_p50 ratio --names ack_us,empty_us --pairs-min "$pairs" <"$work/acks"
  local case
  for case in single batch; do
    report hints_per_second 1/s --case "$case" --pairs-min "$pairs" <"$work/rate-$case"
    report hints_per_cpu_second 1/s --case "$case" --pairs-min "$pairs" <"$work/cpu-$case"
  done
}
