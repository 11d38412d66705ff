# shellcheck shell=bash
# What Helm makes of the chart, and what must hold of it. Sourced by scripts of this folder.
set -euo pipefail
chart_tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
chart=$chart_tests/../../charts/sluice
SLUICE_BIN=${SLUICE_BIN:-$chart_tests/../../build/bin}
helm=$(bash "$chart_tests/helm.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# A cluster that happens to be configured here has no part in this.
export KUBECONFIG=$work/none HELM_CACHE_HOME=$work/cache HELM_CONFIG_HOME=$work/config HELM_DATA_HOME=$work/data

fail() { echo "FAILED: $*" >&2; exit 1; }

# render [helm's arguments]: into $work/rendered
render() {
  "$helm" template node "$chart" --namespace storage "$@" >"$work/rendered" 2>"$work/error" ||
    fail "helm template $*: $(<"$work/error")"
}

# holds EXPRESSION: Python over `made`, what was rendered by kind and name, and over parts of it.
holds() {
  python3 - "$work/rendered" "$1" <<'END_OF_PYTHON'
import sys, yaml
made = {f'{o["kind"]}/{o["metadata"]["name"]}': o for o in yaml.safe_load_all(open(sys.argv[1])) if o}
daemons = made["DaemonSet/node-sluice"]["spec"]
pod = daemons["template"]["spec"]
node = pod["containers"][0]
config = yaml.safe_load(made["ConfigMap/node-sluice"]["data"]["sluice.yaml"])
sys.exit(0 if eval(sys.argv[2]) else f"does not hold: {sys.argv[2]}")
END_OF_PYTHON
}

# refused PATTERN [helm's arguments]: helm must refuse these values and say so.
refused() {
  local pattern=$1
  shift
  if "$helm" template node "$chart" "$@" >"$work/rendered" 2>"$work/error"; then fail "accepted: $*"; fi
  grep -Eq -- "$pattern" "$work/error" || fail "'$*' should say '$pattern': $(<"$work/error")"
}

# notes [helm's arguments]: what is printed after an install, into $work/notes. Helm shows it only where a cluster is, so
# it is rendered as the text of a ConfigMap.
notes() {
  rm -rf "$work/noted"
  cp -r "$chart" "$work/noted"
  {
    echo '{{- define "sluice.notes" -}}'
    cat "$chart/templates/NOTES.txt"
    printf '%s\n' '{{- end -}}' 'apiVersion: v1' 'kind: ConfigMap' 'metadata: {name: notes}' \
      'data: {notes: {{ include "sluice.notes" . | toJson }}}'
  } >"$work/noted/templates/notes.yaml"
  rm "$work/noted/templates/NOTES.txt"
  "$helm" template node "$work/noted" --namespace storage --show-only templates/notes.yaml "$@" \
    >"$work/rendered" 2>"$work/error" || fail "the notes with $*: $(<"$work/error")"
  python3 -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["data"]["notes"])' "$work/rendered" >"$work/notes"
}

# The configuration is what the daemon takes.
config_is_valid() {
  python3 -c 'import sys, yaml
for o in yaml.safe_load_all(open(sys.argv[1])):
    if o and o["kind"] == "ConfigMap" and "sluice.yaml" in o["data"]: print(o["data"]["sluice.yaml"])' \
    "$work/rendered" >"$work/sluice.yaml"
  "$SLUICE_BIN/sluice" config validate "$work/sluice.yaml" >"$work/error" 2>&1 ||
    fail "the daemon refuses the chart's configuration: $(cat "$work/error" "$work/sluice.yaml")"
}
