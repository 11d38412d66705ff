#!/bin/bash
# Before `helm uninstall`: gathers from Kubernetes what each node's uninstall-node.sh has said, and fails if an image is in
# use, or could not be unmounted, anywhere; or if a node says nothing.
# usage: uninstall-gather.sh RELEASE NAMESPACE DAEMONSET LABELS SECONDS
# Asks by the service account that lies in ACCOUNT, which may list the namespace's pods, and see and delete that DaemonSet:
# it is deleted where this fails, as Helm does it only where all goes well.
set -u
release=$1 namespace=$2 daemonset=$3 labels=$4 end=$((SECONDS + $5))
account=${ACCOUNT:-/var/run/secrets/kubernetes.io/serviceaccount}
server=$KUBERNETES_SERVICE_HOST
[[ $server != *:* ]] || server="[$server]"

# api METHOD PATH: the answer as it is on the wire, a field a line.
api() {
  printf '%s %s HTTP/1.0\r\nHost: kubernetes.default.svc\r\nAuthorization: Bearer %s\r\nAccept: application/json\r\n\r\n' \
    "$1" "$2" "$(<"$account/token")" |
    timeout 15 openssl s_client -quiet -verify_quiet -verify_return_error -CAfile "$account/ca.crt" \
      -verify_hostname kubernetes.default.svc -servername kubernetes.default.svc \
      -connect "$server:${KUBERNETES_SERVICE_PORT:-443}"
}
path_of_daemonset="/apis/apps/v1/namespaces/$namespace/daemonsets/$daemonset?pretty=true"
path_of_pods="/api/v1/namespaces/$namespace/pods?pretty=true&labelSelector=$(sed 's|/|%2F|g; s|=|%3D|g; s|,|%2C|g' <(echo "$labels"))"

# How many nodes there are to be; nothing while nobody has counted them.
desired() {
  api GET "$path_of_daemonset" 2>/dev/null | awk '
    /^ +"observedGeneration": [1-9]/ { counted = 1 }
    /^ +"desiredNumberScheduled": / { number = $2; sub(/,/, "", number) }
    END { if (counted) print number }'
}

# Of each pod a line: its node, a tab, and what it has said, as JSON has it; or why it is not that far, after a second tab.
said_by_pods() {
  api GET "$path_of_pods" 2>/dev/null | awk '
    function value(line) { sub(/^[^:]*: "/, "", line); sub(/",?$/, "", line); return line }
    /^    \{/ { node = said = waits = ""; state = "" }
    /^ +"nodeName": "/ { node = value($0) }
    /^ +"(terminated|waiting|running)": \{/ { state = $1 }
    state ~ /terminated/ && /^ +"message": "/ { said = value($0); state = "" }
    state ~ /waiting/ && /^ +"(reason|message)": "/ { waits = waits (waits == "" ? "" : ": ") value($0) }
    /^    \}/ { if (node != "") print node "\t" said "\t" waits }'
}

while :; do
  expected=$(desired)
  mapfile -t pods < <(said_by_pods)
  silent=0
  for pod in "${pods[@]}"; do [[ $pod == *$'\t'?*$'\t'* ]] || silent=$((silent + 1)); done
  [[ -n $expected ]] && ((${#pods[@]} == expected && silent == 0)) && break
  ((SECONDS < end)) || break
  sleep 1
done

failed=0 used=0
for pod in "${pods[@]}"; do
  node=${pod%%$'\t'*} waits=${pod##*$'\t'} said=${pod#*$'\t'}
  said=${said%%$'\t'*}
  if [[ -z $said ]]; then
    echo "node $node says nothing${waits:+: $waits}"
    failed=$((failed + 1))
    continue
  fi
  said=$(printf '%b' "${said//\\\"/\"}")
  echo "node $node: ${said#*$'\n'}"
  case ${said%%$'\n'*} in
    ok) ;;
    used) used=$((used + 1)) ;;
    *) failed=$((failed + 1)) ;;
  esac
done

give_up() {
  api DELETE "$path_of_daemonset" >/dev/null 2>&1
  exit 1
}
leave="to leave them as they are: helm uninstall $release --namespace $namespace --no-hooks"
if [[ -z $expected ]]; then
  echo "FAILED: Kubernetes does not say on which nodes there may be images mounted:" >&2
  api GET "$path_of_daemonset" 2>&1 | head -c 1000 >&2
  give_up
fi
((${#pods[@]} >= expected)) || { echo "$((expected - ${#pods[@]})) nodes have no pod that looks"; failed=$((failed + 1)); }
if ((used)); then
  echo "FAILED: on $used of $expected nodes images are in use, by what is named above, and would be left without a daemon." \
    "End that, and uninstall again. To end its reads with errors: helm upgrade $release CHART --namespace $namespace" \
    "--reuse-values --set uninstall.force=true, and uninstall again. Or $leave" >&2
  give_up
fi
if ((failed)); then
  echo "FAILED: not every node could say that nothing is left mounted, see above. Mend that, and uninstall again; or $leave" >&2
  give_up
fi
echo "all $expected nodes: done"
