#!/usr/bin/env bash
# Whatever the chart makes is what a current Kubernetes, the Prometheus Operator and cert-manager know: no field that they
# don't have, none of another type, pattern or bound.
source "$(dirname "$0")/lib_helm.sh"
source "$chart_tests/combinations.sh"

status=0
models=$(bash "$chart_tests/fetch_models.sh") || status=$?
if ((status == 77)) && [[ ${CI-} != true ]]; then
  echo "SKIPPED: the types of Kubernetes' objects can't be had here" >&2
  exit 77
fi
((status == 0)) || fail "the types of Kubernetes' objects can't be fetched"
mkdir "$work/typed"
ln -s "$models/node_modules" "$work/typed/node_modules"
echo '{"type": "module"}' >"$work/typed/package.json"

# take NAME [helm's arguments]: what is rendered is checked by types_hold, later and all at once.
take() {
  render "${all_kinds[@]}" "${@:2}"
  python3 -B "$chart_tests/typed.py" "$work/rendered" "$work/typed" "$1"
}

# types_hold NAME...: whether what was taken under these names is right; what is wrong is in $work/error.
types_hold() {
  local name right=0
  (cd "$work/typed" && node node_modules/typescript/bin/tsc --noEmit --strict --skipLibCheck --module nodenext \
    "${@/%/.ts}") >"$work/error" 2>&1 || right=1
  for name in "$@"; do node "$work/typed/$name.mjs" >>"$work/error" 2>&1 || right=1; done
  return "$right"
}

# not_right NAME PATTERN PYTHON: what was rendered last, changed by PYTHON over the nodes' DaemonSet `o`, must not hold.
not_right() {
  python3 - "$work/rendered" "$work/changed" "$3" <<'END_OF_PYTHON'
import sys, yaml
things = [o for o in yaml.safe_load_all(open(sys.argv[1])) if o]
for o in things:
    if o["kind"] == "DaemonSet" and "uninstall" not in o["metadata"]["name"]: exec(sys.argv[3])
yaml.safe_dump_all(things, open(sys.argv[2], "w"))
END_OF_PYTHON
  python3 -B "$chart_tests/typed.py" "$work/changed" "$work/typed" "$1"
  if types_hold "$1"; then fail "wrong, and not noticed: $3"; fi
  grep -Eq "$2" "$work/error" || fail "'$3' should be noticed as '$2': $(<"$work/error")"
}

each_combination "$chart" "$work" take
taken=("$work"/typed/*.mjs)
taken=("${taken[@]##*/}")
types_hold "${taken[@]%.mjs}" || fail "$(<"$work/error")"

# Each of both notices what only it can.
not_right unknown '"imge".? does not exist' 'o["spec"]["template"]["spec"]["containers"][0]["imge"] = "a"'
not_right number "containerPort must be integer" \
  'o["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 1.5'
