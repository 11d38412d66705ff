# shellcheck shell=bash
# A Prometheus of Debian's that scrapes nodes once a second, and calls them what the chart's README makes of them. Sourced
# after tests/e2e/lib.sh, whose variables these are.
# shellcheck disable=SC2154

chart=$repository_root/charts/sluice
prometheus=127.0.0.1:$(free_port)
prometheus_pid=
prometheus_targets=0

# start_prometheus [NAME=]HOST:PORT...: with the chart's rules, and as if it had found pods there that run on nodes of
# these names in Kubernetes; returns once it is ready.
start_prometheus() {
  local target name
  prometheus_targets=$#
  {
    printf '%s\n' 'global: {scrape_interval: 1s, evaluation_interval: 1s}' "rule_files: [$chart/rules/sluice.yaml]"
    sed -n '/^    scrape_configs:$/,/^$/s/^    //p' "$chart/README.md" | sed '/kubernetes_sd_configs/d; /^$/d'
    echo '    static_configs:'
    for target in "$@"; do
      name=
      [[ $target != *=* ]] || name=${target%%=*}
      cat <<YAML
      - targets: ["${target#*=}"]
        labels:
          __meta_kubernetes_pod_label_app_kubernetes_io_name: sluice
          __meta_kubernetes_pod_container_port_name: operations
          __meta_kubernetes_pod_node_name: "$name"
YAML
    done
  } >"$work/prometheus.yml"
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

# ask_prometheus QUERY: the value of its first series; 0 if there is none.
ask_prometheus() {
  curl -fsS --get --data-urlencode "query=$1" "http://$prometheus/api/v1/query" | jq -r '.data.result[0].value[1] // "0"'
}
# scraped_since TIME: whether it has asked each node that it knows since then, answered or not.
scraped_since() { (($(ask_prometheus "count(timestamp(up) > $1)") == prometheus_targets)); }
# Waits until Prometheus has seen what the nodes' metrics are now.
let_scrape() { wait_until scraped_since "$(date +%s.%N)" || fail "Prometheus does not scrape"; }

check() { python3 -B "$repository_root/tests/chart/dashboards.py" "$@" >&2; }
