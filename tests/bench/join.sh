# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Eight nodes have an image; eight more start, know only that the others exist, and want it too. What of the blobs the
# registry answers then, by its log.

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

join_run() {
  local first
  start_cold 1 "$warm" "$warm"
  await_members $((warm - 1)) "${old[@]}"
  pull_all "$image" "${old[@]}"
  start_cold $((warm + 1)) $((2 * warm)) $((2 * warm))
  await_members $((2 * warm - 1)) "${new[@]}"
  first=$(($(origin_log_lines) + 1))
  busy_begin
  pull_all "$image" "${new[@]}"
  busy_end
  join_bytes=$(answered_blob_bytes "$first")
  expect_right "${new[@]}"
  end_nodes "${old[@]}" "${new[@]}"
  note "the new ones have it after $makespan s, of $join_bytes bytes from the registry;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

measure() {
  local BACKEND=off run image blob blob_bytes image_bytes join_bytes warm=${NODES:-8} old new
  mapfile -t old < <(seq 1 "$warm")
  mapfile -t new < <(seq $((warm + 1)) $((2 * warm)))
  crowd_up $((2 * warm)) 50mbit
  push_random_image crowd "${BYTES:-$((32 << 20))}"
  for ((run = 0; run < runs; ++run)); do
    quiet_run join_run || { report_too_busy "$warm" origin_bytes; fail "the machine is too busy"; }
    echo "$join_bytes" >>"$work/join-bytes"
  done
  report_crowd origin_bytes bytes "$warm" <"$work/join-bytes"
}
