# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_*.sh set the rest
# One absent chunk of 256 KiB is read every 500 ms through a mount, while the node has taken as many hints as it takes and
# fetches for them, of another image behind the same link; beside the same reads with no hint.

# shellcheck source=tests/bench/lib_link_reads.sh
source tests/bench/lib_link_reads.sh

readonly reads=${READS:-40} read_bytes=$((128 << 20)) hinted_bytes=$((512 << 20))

hints_flow() { (($(metric sluice_prefetch_bytes_total) > flowed + (8 << 20))); }
hints_rest() {
  local before
  before=$(metric sluice_origin_bytes_total)
  sleep 1
  [[ $(metric sluice_origin_bytes_total) == "$before" ]]
}

# Reads that one of the two has fetched are not the other's.
read_without_hints() {
  wait_until hints_rest || fail "the node fetches on"
  empty=$(read_times read "$((run % 2 ? 0 : reads))")
}

read_under_hints() {
  local flowed filler hints
  flowed=$(metric sluice_prefetch_bytes_total)
  mkfifo "$work/hold-$run" "$work/taken-$run"
  "$tools/hint_calls" fill "$run_dir/prefetch.sock" "$registry/hinted:1" "run-$run" \
    <"$work/hold-$run" >"$work/taken-$run" 2>"$work/fill.log" &
  filler=$!
  exec 7>"$work/hold-$run"
  read -r hints <"$work/taken-$run" || fail "the hints can't be given: $(<"$work/fill.log")"
  wait_until hints_flow || fail "nothing comes for $hints hints"
  full=$(read_times read "$((run % 2 ? reads : 0))")
  exec 7>&-
  wait "$filler" || fail "$(<"$work/fill.log")"
  note "$hints hints, for which $(($(metric sluice_prefetch_bytes_total) - flowed)) bytes came meanwhile"
}

measure() {
  local run empty full
  runs=${RUNS:-5}
  start_far_registry
  push_random read "$read_bytes"
  push_random hinted "$hinted_bytes"
  for ((run = 0; run < runs; ++run)); do
    start_with_nothing
    mount_image read "$work/mnt/read"
    busy_begin
    in_turns "$run" read_under_hints read_without_hints
    busy_end
    sluice umount "$work/mnt/read" >&2
    note "under hints $full, without $empty (median and p99 in s); busy: processor $cpu_busy, disk $disk_busy"
    echo "${full%% *} ${empty%% *}" >>"$work/medians"
    awk '{ print $2, $5 }' <<<"$full $empty" >>"$work/slowest"
    note_busy "$work/busy"
  done
  report p50_ratio ratio --pairs-min "$runs" --also "$(most_busy "$work/busy")" --names full_s,empty_s <"$work/medians"
  report p99_ratio ratio --pairs-min "$runs" --also "$(most_busy "$work/busy")" --names full_s,empty_s <"$work/slowest"
}
