#!/usr/bin/env bash
# Two real nodes, a registry and a real Prometheus: what dashboards and alerts name is exported; while both nodes start one
# image at once, every panel's query gives numbers, and no alert fires for nodes that are well; then one node goes, and the
# first alert names it as Kubernetes does. BACKEND chooses the kernel front end.
source "$(dirname "$0")/../e2e/lib.sh"
source "$(dirname "$0")/lib_prometheus.sh"
source "$e2e_dir/lib_nodes.sh"
export BACKEND=${BACKEND:-fuse}  # the one of pods

end_all() {
  local status=$?
  stop_prometheus
  cleanup "$status"
}
trap end_all EXIT

# alert_state NAME INSTANCE: pending or firing; nothing if it is neither.
alert_state() {
  curl -fsS "http://$prometheus/api/v1/alerts" | jq -r --arg name "$1" --arg instance "$2" \
    '.data.alerts[] | select(.labels.alertname == $name and .labels.instance == $instance) | .state'
}
is_pending() { [[ $(alert_state SluiceNodeDown host-2) == pending ]]; }
knows_other() {
  sluice --output json peers |
    jq -e '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == 1' >"$work/peers"
}
# start_image N: mounts it on that node, and reads all of it.
start_image() {
  use_node "$1"
  mount_image app "$work/node$1/mnt"
  [[ $(checksum_of "$work/node$1/mnt") == "$tree" ]] || fail "node $1 has another tree"
}

note "promtool takes the rules, and each alert fires when it must"
promtool check rules "$chart/rules/sluice.yaml" >"$work/promtool.log" || fail "promtool: $(<"$work/promtool.log")"
(cd "$repository_root/tests/chart" && promtool test rules rules_test.yaml) >"$work/promtool.log" 2>&1 ||
  fail "promtool: $(<"$work/promtool.log")"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 32000000 --files 100
tree=$(checksum_of "$work/tree")
start_registry
use_node 1
write_config
push_tree "$work/tree" app
for node in 1 2; do start_member $node 2 'refresh: 500ms'; done
# shellcheck disable=SC2154  # of lib_nodes.sh
start_prometheus "host-1=${node_listens[1]}" "host-2=${node_listens[2]}"
for node in 1 2; do
  use_node $node
  wait_until knows_other || fail "node $node does not know the other: $(<"$work/peers")"
done

note "panels and rules name metrics that a node exports"
curl -fsS "http://$listen/metrics" >"$work/metrics"
promtool check metrics <"$work/metrics" >&2 || fail "promtool has complaints about the metrics"
check "$chart" metrics "$work/metrics" || fail "a dashboard or rule names what no node exports"

note "both nodes start one image at once, while they are scraped"
let_scrape  # what they had before
start_image 1 &
reader=$!
start_image 2 || fail "node 2 can't start the image"
wait "$reader" || fail "node 1 can't start the image"
for node in 1 2; do
  use_node $node
  (($(metric sluice_peer_received_bytes_total) > 0)) || fail "node $node got nothing from the other"
done

note "every query is answered with a number"
check "$chart" queries "http://$prometheus" 2 || fail "a query is not answered"

note "a metric that nobody exports is seen, in a panel and in a rule, and what is no number"
mkdir "$work/broken"
cp -r "$chart/dashboards" "$chart/rules" "$chart/README.md" "$work/broken"
sed -i 's/sum(sluice_mounts{/sum(sluice_mount{/' "$work/broken/dashboards/overview.json"
expect_failure 1 'no node exports sluice_mount$' check "$work/broken" metrics "$work/metrics"
sed -i 's|sum(sluice_mounts{|0 / 0 * &|; s|sum(sluice_process_threads{|1 / 0 + &|' "$work/broken/dashboards/node.json"
expect_failure 1 'overview.json: Mounts: gives 0 series' check "$work/broken" queries "http://$prometheus" 2
for said in 'Mounts: gives no number but NaN: 0 / 0' 'Threads: gives no number but +Inf: 1 / 0'; do
  grep -qF "node.json: $said" "$work/output" || fail "it should say '$said': $(<"$work/output")"
done
sed -i 's/sluice_origin_requests_total/sluice_requests_total/' "$work/broken/rules/sluice.yaml"
expect_failure 1 'SluiceOriginErrors: no node exports sluice_requests_total' check "$work/broken" metrics "$work/metrics"

note "an alert that nothing explains is seen"
sed -i "s/^### SluiceCutOff/### SluiceCut/" "$work/broken/README.md"
expect_failure 1 "SluiceCutOff has no runbook" check "$work/broken" metrics "$work/metrics"

note "a node that goes is noticed, by the name of its host"
stop_node KILL
wait_until is_pending || fail "SluiceNodeDown is not pending for a killed node: $(curl -fsS "http://$prometheus/api/v1/alerts")"
