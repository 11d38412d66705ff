# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# One node reads an absent chunk of 256 KiB every 500 ms, through a mount, while a fill of the same blob saturates its link
# of 100 Mbit/s; beside the same reads with nothing else going on, and the fill's rate beside what it is alone. Arguments:
# the cases; default: both.
#   origin  from a registry, whose own link is faster
#   peers   from seven other nodes, which have it all

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

# What is read lies at the end, where a fill comes last.
readonly reads=${READS:-60} alone_seconds=5 filled_bytes=$((${BYTES:-$((512 << 20))})) tail_chunks=256

# timed_reads SKIP: the median, the 99th percentile and how many there were, of as many reads.
timed_reads() {
  local chunks=$((filled_bytes / (256 << 10)))
  "${node_runner[@]}" python3 -B tests/bench/timed_reads.py --mounted "$work/node$reader/mnt/file" --like "$work/tree/file" \
    --metrics "http://$listen/metrics" --first $((chunks - tail_chunks)) --skip "$1" --count "$reads" --seed "$run" ||
    fail "the reads failed"
}

fill_flows() { (($(metric sluice_prefetch_bytes_total) > (8 << 20))); }

# rate_since BYTES TIME: of what was fetched for nobody who waits.
rate_since() {
  awk -v bytes=$(($(metric sluice_prefetch_bytes_total) - $1)) -v from="$2" -v to="$EPOCHREALTIME" \
    'BEGIN { print bytes / (to - from) }'
}

fill_run() {
  local bytes started
  use_node "$reader"
  net_store "$reader" 1G
  if [[ $name == peers ]]; then
    start_member "$reader" 8 "${crowd_options[@]}"
    await_members 7 "$reader"
  else
    start_node
  fi
  sluice mount "$image" "$work/node$reader/mnt" >&2
  busy_begin
  idle=$(timed_reads 0)
  sluice prefetch submit "$image" >"$work/fill.log" 2>&1 &
  pulls[$reader]=$!
  wait_until fill_flows || fail "the fill does not begin: $(cat "$work/fill.log")"
  bytes=$(metric sluice_prefetch_bytes_total) started=$EPOCHREALTIME
  sleep "$alone_seconds"
  rate_alone=$(rate_since "$bytes" "$started")
  bytes=$(metric sluice_prefetch_bytes_total) started=$EPOCHREALTIME
  beside=$(timed_reads "$reads")
  rate_beside=$(rate_since "$bytes" "$started")
  busy_end
  kill -0 "${pulls[$reader]}" 2>/dev/null || fail "the fill ended before the reads did"
  kill "${pulls[$reader]}"
  end_nodes "$reader"
  note "$name: idle $idle, beside the fill $beside (median and p99 in s); the fill alone $rate_alone bytes/s, beside" \
    "the reads $rate_beside; busy: processor $cpu_busy, disk $disk_busy"
}

measure_case() {
  local name=$1 reader=8 run image blob blob_bytes image_bytes idle beside rate_alone rate_beside homes
  local metrics=(p50_ratio p99_ratio fill_rate_over_alone)
  new_case
  push_random_image fill "$filled_bytes"
  if [[ $name == peers ]]; then
    mapfile -t homes < <(seq 1 7)
    STORE_SIZE=1G start_cold 1 7 8
    await_members 6 "${homes[@]}"
    pull_all "$image" "${homes[@]}"
  fi
  for ((run = 0; run < runs; ++run)); do
    quiet_run fill_run || { report_too_busy "$name" "${metrics[@]}"; fail "the machine is too busy"; }
    echo "${beside%% *} ${idle%% *}" >>"$work/p50-$name"
    awk '{ print $5, $2 }' <<<"$idle $beside" >>"$work/p99-$name"
    echo "$rate_beside $rate_alone" >>"$work/rate-$name"
  done
  report_crowd p50_ratio ratio "$name" --names beside_fill_s,idle_s <"$work/p50-$name"
  report_crowd p99_ratio ratio "$name" --names beside_fill_s,idle_s <"$work/p99-$name"
  report_crowd fill_rate_over_alone ratio "$name" --names beside_reads,alone <"$work/rate-$name"
  crowd_down
}

measure() {
  local name node cases=("$@")
  ((${#cases[@]})) || cases=(origin peers)
  install_packages iptables
  for name in "${cases[@]}"; do
    net_up
    net_add origin 1gbit
    net_add 8 100mbit
    case $name in
      origin) ;;
      peers) for node in 1 2 3 4 5 6 7; do net_add "$node" 100mbit; done ;;
      *) fail "there is no case '$name'" ;;
    esac
    start_origin
    measure_case "$name"
  done
}
