#!/usr/bin/env bash
# What `helm test` runs, against real nodes: it passes for those that are ready, and names the one that is not.
source "$(dirname "$0")/../e2e/lib.sh"
export BACKEND=off
helm=$(bash "$repository_root/tests/chart/helm.sh")
end_all() {
  local status=$?
  [[ -z ${node_pid-} ]] || kill -CONT "$node_pid" 2>/dev/null
  cleanup "$status"
}
trap end_all EXIT

note "the pod is none of the nodes, and may ask them"
KUBECONFIG=$work/none "$helm" template node "$repository_root/charts/sluice" --namespace storage \
  --set config.operations.listen=0.0.0.0:1900 >"$work/rendered"
python3 - "$work/rendered" >"$work/command" <<'END_OF_PYTHON'
import sys, yaml
made = {f'{o["kind"]}/{o["metadata"]["name"]}': o for o in yaml.safe_load_all(open(sys.argv[1])) if o}
pod = made["Pod/node-sluice-test"]
node = made["DaemonSet/node-sluice"]["spec"]
asker = pod["spec"]["containers"][0]
labels = pod["metadata"]["labels"]
assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
assert asker["image"] == node["template"]["spec"]["containers"][0]["image"]
assert not node["selector"]["matchLabels"].items() <= labels.items()
callers = made["NetworkPolicy/node-sluice"]["spec"]["ingress"][1]["from"]
assert any(c["podSelector"]["matchLabels"].items() <= labels.items() for c in callers if "podSelector" in c)
assert asker["command"][-3:] == ["node-sluice.storage.svc", "1900", "120"], asker["command"][-3:]
print("\0".join(asker["command"][:-3]), end="")
END_OF_PYTHON
mapfile -d '' -t command <"$work/command"
# ask SERVICE PORT SECONDS
ask() { "${command[@]}" "$@" >"$work/said" 2>&1; }

start_node
port=${listen##*:}
address=${listen%:*}

note "a node that is ready"
ask "$address" "$port" 20 || fail "a node that is well does not pass: $(<"$work/said")"
grep -qxF "1 nodes are ready and give metrics: $address" "$work/said" || fail "it says: $(<"$work/said")"

if ((EUID == 0)); then
  note "a node as the chart runs it where nothing is mounted: root's files, no capability, none to be had"
  stop_node
  node_runner=(setpriv --inh-caps=-all --bounding-set=-all --no-new-privs)
  restart_node
  [[ $(awk '/^CapEff:/ { print $2 }' "/proc/$node_pid/status") == 0000000000000000 ]] || fail "it has capabilities"
  ask "$address" "$port" 20 || fail "a node without capabilities does not pass: $(<"$work/said")"
  sluice status >"$work/answer" || fail "a node without capabilities can't be asked"
fi

note "a name without nodes, and a port where nothing is"
if ask nobody.invalid "$port" 0; then fail "no node passes"; fi
grep -q 'nobody.invalid names no node' "$work/said" || fail "it says: $(<"$work/said")"
if ask "$address" "$(free_port)" 0; then fail "nothing passes for a node"; fi
grep -q "$address: no answer on port" "$work/said" || fail "it says: $(<"$work/said")"

note "a node that does not answer, one that becomes ready, and what is none"
kill -STOP "$node_pid"
if ask "$address" "$port" 0; then fail "a node that is stopped passes"; fi
grep -q "$address: no answer on port" "$work/said" || fail "it says: $(<"$work/said")"
kill -CONT "$node_pid"
stop_node
"${command[@]}" "$address" "$port" 60 >"$work/later" 2>&1 &
later=$!
# It has asked, and waits before it asks again.
wait_until pgrep -x -P "$later" sleep >"$work/answer" || fail "it does not ask again: $(<"$work/later")"
restart_node
wait "$later" || fail "a node that has become ready does not pass: $(<"$work/later")"

stop_node
other=$(free_port)
cat >"$work/others.py" <<'END_OF_PYTHON'
"""Answers readyz as its second argument says, and metrics that are not Sluice's."""
import http.server
import sys


class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = self.path != "/readyz" or sys.argv[2] == "200"
        body = b"up 1\n" if self.path == "/metrics" else b"the store is not open" if not ready else b"ok"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(body)


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Other).serve_forever()
END_OF_PYTHON
for status in 503 200; do
  python3 "$work/others.py" "$other" "$status" 2>"$work/others.log" &
  server=$!
  wait_until curl -s -o "$work/answer" "http://127.0.0.1:$other/readyz" || fail "the server does not start"
  if ask 127.0.0.1 "$other" 0; then fail "what is no node in order passes ($status)"; fi
  case $status in
    503) grep -q '127.0.0.1 is not ready: the store is not open' "$work/said" ;;
    200) grep -q '127.0.0.1 is ready, and gives no metrics of Sluice' "$work/said" ;;
  esac || fail "it says: $(<"$work/said")"
  kill "$server"
  wait "$server" 2>/dev/null || true
done
