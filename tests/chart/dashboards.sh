#!/usr/bin/env bash
# Two real nodes and a real Prometheus: what dashboards and alerts name is exported, every panel's query gives series,
# and no alert fires for nodes that are well; then one node goes, and the first alert fires.
source "$(dirname "$0")/../e2e/lib.sh"
source "$(dirname "$0")/lib_prometheus.sh"
export BACKEND=off
first_pid=

end_all() {
  local status=$?
  stop_prometheus
  end_process "$first_pid" TERM 2>/dev/null
  cleanup "$status"
}
trap end_all EXIT

# alert_state NAME: pending or firing; nothing if it is neither.
alert_state() {
  curl -fsS "http://$prometheus/api/v1/alerts" |
    jq -r --arg name "$1" '.data.alerts[] | select(.labels.alertname == $name) | .state'
}
is_pending() { [[ $(alert_state SluiceNodeDown) == pending ]]; }

note "promtool takes the rules, and each alert fires when it must"
promtool check rules "$chart/rules/sluice.yaml" >"$work/promtool.log" || fail "promtool: $(<"$work/promtool.log")"
(cd "$repository_root/tests/chart" && promtool test rules rules_test.yaml) >"$work/promtool.log" 2>&1 ||
  fail "promtool: $(<"$work/promtool.log")"

start_node
first_pid=$node_pid
first=$listen
data_dir=$work/data2 run_dir=$work/run2 listen=
start_node
start_prometheus "$first" "$listen"

note "panels and rules name metrics that a node exports"
curl -fsS "http://$listen/metrics" >"$work/metrics"
promtool check metrics <"$work/metrics" >&2 || fail "promtool has complaints about the metrics"
check "$chart" metrics "$work/metrics" || fail "a dashboard or rule names what no node exports"

note "every query is answered"
check "$chart" queries "http://$prometheus" 2 || fail "a query is not answered"

note "a metric that nobody exports is seen, in a panel and in a rule"
mkdir "$work/broken"
cp -r "$chart/dashboards" "$chart/rules" "$chart/README.md" "$work/broken"
sed -i 's/sum(sluice_mounts{/sum(sluice_mount{/' "$work/broken/dashboards/overview.json"
expect_failure 1 'no node exports sluice_mount$' check "$work/broken" metrics "$work/metrics"
expect_failure 1 'Mounts: gives 0 series' check "$work/broken" queries "http://$prometheus" 2
sed -i 's/sluice_origin_requests_total/sluice_requests_total/' "$work/broken/rules/sluice.yaml"
expect_failure 1 'SluiceOriginErrors: no node exports sluice_requests_total' check "$work/broken" metrics "$work/metrics"

note "an alert that nothing explains is seen"
sed -i "s/^### SluiceCutOff/### SluiceCut/" "$work/broken/README.md"
expect_failure 1 "SluiceCutOff has no runbook" check "$work/broken" metrics "$work/metrics"

note "a node that goes is noticed"
stop_node KILL
wait_until is_pending || fail "SluiceNodeDown is not pending for a killed node: '$(alert_state SluiceNodeDown)'"
