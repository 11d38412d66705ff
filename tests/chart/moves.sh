#!/usr/bin/env bash
# Two real nodes, a registry that stalls when it is told to, and a real Prometheus: every metric that a dashboard or rule
# names moves when what it counts happens. What can't be made to happen here stands in unmoved.txt.
source "$(dirname "$0")/../e2e/lib.sh"
source "$(dirname "$0")/lib_prometheus.sh"
source "$e2e_dir/lib_nodes.sh"
export READ_DEADLINE=5s

end_all() {
  local status=$?
  stop_prometheus
  cleanup "$status"
}
trap end_all EXIT

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 64000000 --files 16
start_registry
use_node 1
write_config
push_tree "$work/tree" app
blob=$(data_blob_of app)
python3 "$e2e_dir/stalling_proxy.py" "$registry" "$work/stall" >"$work/proxy" 2>"$work/proxy.log" &
wait_until test -s "$work/proxy" || fail "the proxy does not start: $(cat "$work/proxy.log")"
registry=127.0.0.1:$(<"$work/proxy")
mirror=127.0.0.1:$(free_port)

start() {
  use_node "$1"
  start_node "$(cluster_config "$1" 2 'refresh: 500ms' 'insecurePeers: true' 'swarm: true')" "${@:2}"
}
sees() { sluice --output json peers | jq -e '[.peers[] | select(.state == "alive")] | length == 1' >"$work/peers"; }
moved() { (($(metric "$@") > 0)); }
expect_moved() { wait_until moved "$@" || fail "$* is still 0"; }
by_size() { (cd "$work/tree" && find . -type f -printf '%s %p\n' | sort -nr | sed -n "$1s/^[0-9]* //p"); }

use_node 2
second=$listen
use_node 1
start_prometheus "$listen" "$second"
start 1 'mirror:' "  listen: \"$mirror\""
let_scrape

note "node 1 reads from the registry, alone"
mount_image app "$work/node1/mnt"
cat "$work/node1/mnt/$(by_size 1)" >"$work/read"
expect_moved sluice_prefetch_used_bytes_total
expect_moved sluice_read_duration_seconds_count 'source="origin"'
let_scrape

note "the registry stalls: readers wait, and get errors at their deadline"
echo "$blob" >"$work/stall"
dd if="$work/node1/mnt/$(by_size 16)" of="$work/waited" bs=4096 count=1 2>"$work/dd" &
reader=$!
expect_moved sluice_reads_waiting
expect_moved sluice_fetches_under_way
expect_moved sluice_fetch_inflight_bytes
let_scrape
! wait "$reader" || fail "a reader of a stalled registry was given something"
rm "$work/stall"
expect_moved sluice_read_errors_total

note "hints and container runtimes"
sluice prefetch submit "$registry/app:1" >&2
expect_moved sluice_prefetch_hints_total 'result="completed"'
expect_moved sluice_hint_bytes_total 'result="fetched"'
curl -sS -o "$work/manifest" "http://$mirror/v2/app/manifests/1?ns=$registry"
expect_moved sluice_mirror_requests_total
curl -sS -o "$work/blob" "http://$mirror/v2/app/blobs/$(jq -r '.layers[0].digest' "$work/manifest")?ns=$registry"
expect_moved sluice_mirror_sent_bytes_total
let_scrape

note "node 2 gets it from node 1"
start 2
wait_until sees || fail "node 2 does not see node 1: $(sluice peers)"
let_scrape  # what it had before
sluice mount --fill "$registry/app:1" "$work/node2/mnt" >&2
[[ $(checksum_of "$work/node2/mnt") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs"
expect_moved sluice_swarm_torrents
expect_moved sluice_swarm_peers
expect_moved sluice_peer_received_bytes_total
use_node 1
expect_moved sluice_peer_sent_bytes_total
expect_moved sluice_peer_requests_total
let_scrape

note "a chunk rots, and a blob leaves"
use_node 2
whole() { sluice --output json blob stat "$blob" | jq -e '.present_bytes == .size_bytes' >"$work/stat"; }
wait_until whole || fail "the blob does not become whole"
sluice umount "$work/node2/mnt" >&2
head -c 4096 /dev/urandom | dd of="$(echo "$data_dir/blobs/"*"${blob#sha256:}"*)" bs=4096 seek=7 conv=notrunc 2>"$work/dd"
expect_failure "$exit_failed" '.' sluice blob verify "$blob"
expect_moved sluice_chunk_verify_failures_total
sluice blob evict "$blob" >&2
expect_moved sluice_evicted_bytes_total 'reason="requested"'
let_scrape

note "node 1 goes: node 2 is cut off"
use_node 1
stop_node KILL
use_node 2
cut_off() { (($(metric sluice_cut_off) == 1)); }
wait_until cut_off || fail "node 2 does not find itself cut off: $(sluice peers)"
let_scrape

note "all of it has moved"
check "$chart" moves "http://$prometheus" "$repository_root/tests/chart/unmoved.txt" || fail "a metric did not move"
grep -v '^sluice_hedges_total ' "$repository_root/tests/chart/unmoved.txt" >"$work/unmoved"
expect_failure 1 'sluice_hedges_total did not move' check "$chart" moves "http://$prometheus" "$work/unmoved"
