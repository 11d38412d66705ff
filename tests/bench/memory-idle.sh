# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# Resident memory of a node that has just started on a full store: 1,000 blobs of 1 GiB, their recipes in the index,
# and half of their chunks present.

readonly blobs=1000

measure() {
  local start resident_kib
  note "making a store of $blobs blobs"
  "$tools/make_store" "$data_dir" "$blobs" 1
  for ((start = 0; start < pairs; ++start)); do
    start_node
    [[ $(sluice --output json status | jq '.store.blob_count') == "$blobs" ]] || fail "the node does not know its blobs"
    # Whatever runs after the start has had its time.
    sleep 3
    resident_kib=$(awk '/^VmRSS:/ { print $2 }' "/proc/$node_pid/status")
    note "$resident_kib KiB resident"
    awk -v kib="$resident_kib" 'BEGIN { print kib * 1024 / 1e6 }' >>"$work/measurements"
    stop_node
  done
  report resident_mb MB <"$work/measurements"
}
