# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Eight nodes fill 128 MiB. When a quarter of it is there one is killed for good, one is killed and started again, and
# one is cut off from all others and the registry for 5 s; beside the same crowd undisturbed.

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

readonly killed=6 restarted=7 cut_off=8

start_crowd() {
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
}

undisturbed_run() {
  start_crowd
  busy_begin
  pull_all "$image" "${everyone[@]}"
  busy_end
  undisturbed_makespan=$makespan
  end_nodes "${everyone[@]}"
  note "undisturbed: $makespan s; busy: processor $cpu_busy, disk $disk_busy"
}

quarter_is_there() { (($(present_bytes 1) * 4 >= blob_bytes)); }

# An isolated node is connected again after 5 s, whatever else goes on.
disturb() {
  local mender
  net_isolate $cut_off
  { sleep 5 && net_mend $cut_off; } &
  mender=$!
  use_node $killed
  stop_node KILL
  use_node $restarted
  stop_node KILL
  wait "${pulls[$restarted]}" || true
  restart_node
  begin_pull $restarted "$image"
  wait "$mender"
}

churned_run() {
  local node started sent_before
  start_crowd
  sent_before=$(net_sent origin)
  busy_begin
  started=$EPOCHREALTIME
  for node in "${everyone[@]}"; do begin_pull "$node" "$image"; done
  wait_until quarter_is_there || fail "node 1 does not fill"
  disturb
  nodes_complete=0
  for node in "${living[@]}"; do
    if wait "${pulls[$node]}" && has_blob "$node"; then nodes_complete=$((nodes_complete + 1)); fi
  done
  busy_end
  churned_makespan=$(difference "$EPOCHREALTIME" "$started")
  churned_sent=$(($(net_sent origin) - sent_before))
  for node in "${living[@]}"; do
    if has_blob "$node"; then expect_right "$node"; fi
  done
  end_nodes "${everyone[@]}"
  note "disturbed: $churned_makespan s, $nodes_complete of ${#living[@]} complete, $churned_sent bytes from the" \
    "registry; busy: processor $cpu_busy, disk $disk_busy"
}

measure() {
  local BACKEND=off run image blob blob_bytes image_bytes nodes=8 everyone living
  local undisturbed_makespan churned_makespan churned_sent nodes_complete
  local metrics=(origin_over_size nodes_complete makespan_over_undisturbed)
  mapfile -t everyone < <(seq $nodes)
  mapfile -t living < <(seq $nodes | grep -vx $killed)
  crowd_up $nodes 100mbit
  push_random_image crowd "${BYTES:-$((128 << 20))}"
  for ((run = 0; run < runs; ++run)); do
    quiet_run undisturbed_run || { report_too_busy $nodes "${metrics[@]}"; fail "the machine is too busy"; }
    quiet_run churned_run || { report_too_busy $nodes "${metrics[@]}"; fail "the machine is too busy"; }
    echo "$churned_sent $image_bytes" >>"$work/churn-origin"
    echo "$nodes_complete ${#living[@]}" >>"$work/churn-complete"
    echo "$churned_makespan $undisturbed_makespan" >>"$work/churn-makespan"
  done
  report_crowd origin_over_size ratio $nodes --names origin_bytes,size_bytes <"$work/churn-origin"
  report_crowd nodes_complete ratio $nodes --names complete,living <"$work/churn-complete"
  report_crowd makespan_over_undisturbed ratio $nodes --names disturbed_s,undisturbed_s <"$work/churn-makespan"
}
