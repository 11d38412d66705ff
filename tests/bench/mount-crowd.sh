# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Sixteen nodes that mount one image of many files at once, over links of 100 Mbit/s each: the slowest beside one node
# alone, and beside the same where homes send a bootstrap to all who ask, which shows that the figure can fail.

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

# Names that can't be compressed: the bootstrap is large, and the data nothing.
push_many_names() {
  python3 - "$work/tree" "$1" <<'END_OF_PYTHON'
import os, sys
for folder in range(100):
    os.makedirs(f"{sys.argv[1]}/{folder}")
    for _ in range(int(sys.argv[2]) // 100):
        open(f"{sys.argv[1]}/{folder}/{os.urandom(20).hex()}", "w").close()
END_OF_PYTHON
  push_at_origin "$work/tree" names
  image=$(image_by_digest names)
  bootstrap=$(manifest names | jq -r '.layers[-1].digest')
  bootstrap_bytes=$(manifest names | jq '.layers[-1].size')
}

# mount_all NODE...: at once; sets took, seconds until the last one has it.
mount_all() {
  local node pids=() began=$EPOCHREALTIME
  for node in "$@"; do
    sluice_of "$node" mount "$image" "$work/node$node/mnt" >"$work/node$node/mount.log" 2>&1 &
    pids[node]=$!
  done
  for node in "$@"; do
    wait "${pids[node]}" || fail "node $node does not mount: $(cat "$work/node$node/mount.log")"
  done
  took=$(awk -v from="$began" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }')
}

# crowd_took NODE...: the same, of a crowd whose stores are empty; sets requests, of the registry for the bootstrap.
crowd_took() {
  local first
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  first=$(($(origin_log_lines) + 1))
  busy_begin
  mount_all "$@"
  busy_end
  requests=$(origin_requests "/blobs/$bootstrap 20[06]" "$first" | wc -l)
  end_nodes "${everyone[@]}"
}

mount_crowd_run() {
  crowd_took 1
  alone=$took
  SLUICE_PEERS_FANOUT=64 crowd_took "${everyone[@]}"
  by_home=$took
  crowd_took "${everyone[@]}"
  note "a bootstrap of $bootstrap_bytes bytes: alone $alone s, all at once $took s, all from the home $by_home s," \
    "$requests requests; busy: processor $cpu_busy, disk $disk_busy"
}

measure() {
  local run image bootstrap bootstrap_bytes took alone by_home requests nodes=${NODES:-16} everyone
  mapfile -t everyone < <(seq "$nodes")
  crowd_up "$nodes" 100mbit
  push_many_names "${FILES:-60000}"
  for ((run = 0; run < runs; ++run)); do
    quiet_run mount_crowd_run || { report_too_busy "$nodes" slowest_over_alone; fail "the machine is too busy"; }
    echo "$took $alone" >>"$work/slowest"
    echo "$by_home $took" >>"$work/by-home"
    echo "$requests" >>"$work/requests"
  done
  report_crowd slowest_over_alone ratio "$nodes" --names slowest_s,alone_s <"$work/slowest"
  report_crowd by_home_over_ours ratio "$nodes" --names by_home_s,ours_s <"$work/by-home"
  report_crowd bootstrap_requests requests "$nodes" <"$work/requests"
}
