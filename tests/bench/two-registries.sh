# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_*.sh set the rest
# Ten absent chunks a second of 256 KiB are read through a mount whose registry is well, while 64 others wait for chunks of
# an image whose registry takes connections and says nothing; beside the same reads when nobody waits.

# shellcheck source=tests/bench/lib_link_reads.sh
source tests/bench/lib_link_reads.sh

readonly reads=${READS:-200} waiting=64 file_bytes=$((160 << 20))
stalled_pid=
waiters_pid=

# lib.sh's cleanup calls it.
nodes_down() {
  end_waiters
  end_process "$stalled_pid" KILL
}

# Another one, of the same files.
start_second_registry() {
  local registry_of_reads=$registry pid_of_reads=$registry_pid
  start_registry "$link_far:5001"
  stalled=$registry stalled_pid=$registry_pid
  registry=$registry_of_reads registry_pid=$pid_of_reads
}

begin_waiters() {
  python3 -B tests/bench/waiting_readers.py "$work/mnt/stalled/file" "$waiting" 2>"$work/waiters.log" &
  waiters_pid=$!
  wait_until all_wait || fail "not all wait: $(metric sluice_reads_waiting) of $waiting: $(<"$work/waiters.log")"
}
all_wait() { (($(metric sluice_reads_waiting) >= waiting)); }
end_waiters() { end_process "$waiters_pid" KILL; }

read_alone() { alone=$(read_times read "$((run % 2 ? 0 : reads))" --every 0.1); }

read_beside_stall() {
  kill -STOP "$stalled_pid"
  begin_waiters
  beside=$(read_times read "$((run % 2 ? reads : 0))" --every 0.1)
  all_wait || fail "not all waited to the end: $(metric sluice_reads_waiting) of $waiting: $(<"$work/waiters.log")"
  end_waiters
  kill -CONT "$stalled_pid"
  sluice umount "$work/mnt/stalled" >&2
}

measure() {
  local run alone beside
  runs=${RUNS:-5}
  start_far_registry
  push_random read "$file_bytes"
  push_random stalled "$file_bytes"
  start_second_registry
  # For both registries.
  export SLUICE_ORIGIN_PLAIN_HTTP="$registry,$stalled" SLUICE_IMAGES_ALLOW="$registry/*,$stalled/*"
  for ((run = 0; run < runs; ++run)); do
    start_with_nothing
    mount_image read "$work/mnt/read"
    mkdir -p "$work/mnt/stalled"
    sluice mount "$stalled/stalled:1" "$work/mnt/stalled" >&2
    busy_begin
    in_turns "$run" read_beside_stall read_alone
    busy_end
    sluice umount "$work/mnt/read" >&2
    note "beside the stall $beside, alone $alone (median and p99 in s); busy: processor $cpu_busy, disk $disk_busy"
    awk '{ print $2, $5 }' <<<"$beside $alone" >>"$work/slowest"
    echo "${beside%% *} ${alone%% *}" >>"$work/medians"
    note_busy "$work/busy"
  done
  report p99_ratio ratio --pairs-min "$runs" --also "$(most_busy "$work/busy")" --names beside_s,alone_s <"$work/slowest"
  report p50_ratio ratio --pairs-min "$runs" --also "$(most_busy "$work/busy")" --names beside_s,alone_s <"$work/medians"
}
