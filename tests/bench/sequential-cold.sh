# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_link.sh set and use the rest
# A cold read of a file of 256 MiB that can't be compressed, from its begin to its end, through the mount, from a registry
# behind 100 Mbit/s and 36 ms: at which rate beside the link's, and how many requests the registry gets. Beside it curl of
# the whole blob over the same link, and the same read with nothing fetched ahead (case: off), as a control. Arguments:
# the cases; default: all of adaptive, fixed, off.

# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh

readonly file_bytes=$((${BYTES:-$((256 << 20))})) link_bytes_per_second=12500000

blob_requests() { grep -cE '"GET [^ ]*/blobs/' "$work/registry.log" || true; }

read_cold() {
  local before
  make_cold cold "$work/mnt/cold"
  before=$(blob_requests)
  ours=$(seconds_of dd if="$work/mnt/cold/file" of=/dev/null bs=1M)
  # One that was still under way when the reader had all is counted too.
  sleep 1
  requests=$(($(blob_requests) - before))
}

curl_blob() { curled=$(seconds_of curl -fsS -o /dev/null "http://$registry/v2/cold/blobs/$(stored_blob_of cold)"); }

measure_case() {
  local case=$1 run ours curled requests
  start_node 'fetch:' "  readahead: $case"
  mount_image cold "$work/mnt/cold"
  cmp "$work/tree/file" "$work/mnt/cold/file" || fail "the mount's file is not what was pushed"
  for ((run = 0; run < runs; ++run)); do
    in_turns "$run" read_cold curl_blob
    note "$case: ours $ours s, curl $curled s; $requests requests"
    awk -v bytes="$file_bytes" -v s="$ours" -v link="$link_bytes_per_second" 'BEGIN { print bytes / s, link }' >>"$work/rate-$case"
    echo "$ours $curled" >>"$work/times-$case"
    awk -v bytes="$file_bytes" -v n="$requests" 'BEGIN { print n / (bytes / (4 * 1024 * 1024)) }' >>"$work/requests-$case"
  done
  report rate_over_link ratio --case "$case" --pairs-min "$runs" --names bytes_per_second,link <"$work/rate-$case"
  report time_over_curl ratio --case "$case" --pairs-min "$runs" --names ours_seconds,curl_seconds <"$work/times-$case"
  report origin_requests_per_4mib ratio --case "$case" --pairs-min "$runs" <"$work/requests-$case"
  sluice umount "$work/mnt/cold" >&2
  stop_node
  rm -rf "$data_dir"
}

measure() {
  local name cases=("$@")
  ((${#cases[@]})) || cases=(adaptive fixed off)
  runs=${RUNS:-5}
  mkdir "$work/tree"
  head -c "$file_bytes" /dev/urandom >"$work/tree/file"
  link_up 100mbit 18
  registry_runner=(ip netns exec "$link_netns")
  registry_access_log=true
  start_registry "$link_far:5000"
  on_far_end "$SLUICE_BIN/sluice" image push --plain-http "$work/tree" "$registry/cold:1" >&2
  for name in "${cases[@]}"; do
    case $name in
      adaptive | fixed | off) measure_case "$name" ;;
      *) fail "there is no case '$name'" ;;
    esac
  done
}
