# shellcheck shell=bash
# A Prometheus of Debian's that scrapes nodes once a second. Sourced after tests/e2e/lib.sh, whose variables these are.
# shellcheck disable=SC2154

chart=$repository_root/charts/sluice
prometheus=127.0.0.1:$(free_port)
prometheus_pid=

# start_prometheus HOST:PORT...: with the chart's rules; returns once it is ready.
start_prometheus() {
  local targets
  targets=$(printf '"%s",' "$@")
  cat >"$work/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$chart/rules/sluice.yaml]
scrape_configs: [{job_name: sluice, static_configs: [{targets: [${targets%,}]}]}]
YAML
  promtool check config "$work/prometheus.yml" >"$work/promtool.log" || fail "promtool: $(<"$work/promtool.log")"
  setsid prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" \
    --web.listen-address="$prometheus" >"$work/prometheus.log" 2>&1 &
  prometheus_pid=$!
  disown
  wait_until curl -fs -o "$work/ready" "http://$prometheus/-/ready" ||
    fail "prometheus does not start: $(tail -n 3 "$work/prometheus.log")"
}

stop_prometheus() {
  end_process "$prometheus_pid" KILL 2>/dev/null
  prometheus_pid=
}

check() { python3 -B "$repository_root/tests/chart/dashboards.py" "$@" >&2; }
