# shellcheck shell=bash
# The API server's own opinion of what the chart makes. Sourced by run.sh.
# shellcheck disable=SC2154  # of run.sh and what it sources
source tests/chart/combinations.sh

# without_custom_kinds: of objects on standard input, those that Kubernetes itself knows.
without_custom_kinds() {
  python3 -c 'import sys, yaml
custom = ("monitoring.coreos.com/", "cert-manager.io/")
yaml.safe_dump_all([o for o in yaml.safe_load_all(sys.stdin) if o and not o["apiVersion"].startswith(custom)], sys.stdout)'
}

# accepts FILE: whether the API server would take all of it. What it says is in $work/answer.
accepts() { kubectl --namespace dry-run apply --dry-run=server --filename "$1" >"$work/answer" 2>&1; }

# accepted NAME [helm's arguments]
accepted() {
  helm template sluice charts/sluice --namespace dry-run "${all_kinds[@]}" "${@:2}" | without_custom_kinds >"$work/dry-run/$1"
  accepts "$work/dry-run/$1" || fail "the API server refuses what the chart makes for $1: $(<"$work/answer")"
  grep -q '^daemonset.apps/.* created (server dry run)$' "$work/answer" || fail "there was no DaemonSet for $1: $(<"$work/answer")"
}

# Every combination of values is what this Kubernetes takes, and what it does not take is noticed.
dry_run() {
  local account
  kubectl create namespace dry-run >&2
  # Pods are taken of accounts alone that are there.
  for account in sluice sluice-uninstall; do kubectl --namespace dry-run create serviceaccount "$account" >&2; done
  mkdir "$work/dry-run"
  each_combination charts/sluice "$work" accepted
  python3 -c 'import sys, yaml
things = list(yaml.safe_load_all(sys.stdin))
next(o for o in things if o["kind"] == "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["name"] = "Sluice"
yaml.safe_dump_all(things, sys.stdout)' <"$work/dry-run/default" >"$work/dry-run.wrong"
  if accepts "$work/dry-run.wrong"; then fail "a container's name with a capital is accepted"; fi
  grep -q 'Invalid value: "Sluice"' "$work/answer" || fail "it is refused for something else: $(<"$work/answer")"
  [[ -z $(kubectl --namespace dry-run get daemonset --output name) ]] || fail "a dry run has made something"
  kubectl delete namespace dry-run --wait=false >&2
}
