#!/usr/bin/env bash
# The clients of api/examples against two nodes: the extender scores nodes by what they have, keeps nobody waiting, and
# never leaves a pod without a node; the hint client follows hints over a restart, and pods that come and go.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

readonly nodes=2
examples=$repository_root/api/examples
# Debian's Python, which sees Debian's gRPC.
python() { TMPDIR=$work /usr/bin/python3 -B "$@"; }
for tree in app other; do
  mkdir "$work/$tree"
  python3 "$e2e_dir/make_tree.py" "$work/$tree" --bytes 12000000 --files 20 --seed "${#tree}"
done
start_registry
use_node 1
write_config
for tree in app other; do push_tree "$work/$tree" "$tree"; done
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  start_node "$(cluster_config "$i" "$nodes" "name: node-$i" 'refresh: 500ms')"
done
knows_all() { [[ $(sluice --output json peers | jq '[.peers[] | select(.name != "")] | length') == $((nodes - 1)) ]]; }
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the other: $(sluice peers)"
done
socket() { echo "$work/node$1/run/prefetch.sock"; }

note "the hint client brings an image in, and gives the same hint when it is started again"
python "$examples/hint_client.py" --socket "$(socket 1)" "$registry/app:1" >"$work/hint.log" 2>&1 || fail "$(<"$work/hint.log")"
grep -q "app:1 completed" "$work/hint.log" || fail "$(<"$work/hint.log")"
python "$examples/hint_client.py" --socket "$(socket 1)" "$registry/app:1" >"$work/hint.log" 2>&1 || fail "$(<"$work/hint.log")"
use_node 1
[[ $(sluice --output json prefetch list | jq '.hints | length') == 1 ]] || fail "it is another hint: $(sluice prefetch list)"
python "$examples/hint_client.py" --socket "$(socket 1)" "$registry/missing:1" >"$work/hint.log" 2>&1 && fail "a missing image is a success"
grep -q 'missing:1 failed' "$work/hint.log" || fail "$(<"$work/hint.log")"

note "the extender gives nodes scores by what they have of a pod's images"
port=$(free_port)
# Not by the function: its shell would be what is killed.
TMPDIR=$work /usr/bin/python3 -B "$examples/scheduler_extender.py" --socket "$(socket 2)" --listen "127.0.0.1:$port" --min-share 0.9 \
  >"$work/extender.log" 2>&1 & extender=$!
wait_until grep -q listening "$work/extender.log" || fail "the extender does not start: $(<"$work/extender.log")"
arguments() {
  jq -n --arg first "$1" --arg second "${2-}" \
    '{pod: {spec: {containers: ([{image: $first}] + if $second == "" then [] else [{image: $second}] end)}},
      nodenames: ["node-1", "node-2", "node-3"]}'
}
extend() { arguments "${@:2}" | curl -fsS --max-time 20 --data-binary @- "http://127.0.0.1:$port/$1" >"$work/extend.json"; }
scored() { extend prioritize "${@:2}" && jq -e "$1" "$work/extend.json" >"$work/output"; }
best() { scored 'map({(.host): .score}) | add | .["node-1"] == 10 and .["node-2"] < 10 and .["node-3"] == 0' "$registry/app:1"; }
wait_until best || fail "$(cat "$work/extend.json" "$work/extender.log")"
half='map({(.host): .score}) | add | .["node-1"] == 5 and .["node-3"] == 0'
scored "$half" "$registry/app:1" "$registry/other:1" || fail "$(cat "$work/extend.json" "$work/extender.log")"
scored 'map({(.host): .score}) | add | .["node-1"] == 10' "$registry/app:1" 'NO REFERENCE' || fail "$(<"$work/extend.json")"
extend filter "$registry/app:1"
jq -e '.nodenames == ["node-1"] and (.failedNodes | keys) == ["node-2", "node-3"] and .error == ""' "$work/extend.json" \
  >"$work/output" || fail "$(<"$work/extend.json")"
extend filter "$registry/nowhere:1"
jq -e '.nodenames == ["node-1", "node-2", "node-3"]' "$work/extend.json" >"$work/output" || fail "a pod is left without a node"
jq -n --arg image "$registry/app:1" '{pod: {spec: {containers: [{image: $image}]}},
  nodes: {kind: "NodeList", items: [{metadata: {name: "node-1"}}, {metadata: {name: "node-2"}}]}}' |
  curl -fsS --data-binary @- "http://127.0.0.1:$port/filter" >"$work/extend.json"
jq -e '.nodes.kind == "NodeList" and [.nodes.items[].metadata.name] == ["node-1"]' "$work/extend.json" >"$work/output" ||
  fail "$(<"$work/extend.json")"
[[ $(curl -s -o "$work/extend.json" -w '%{http_code}' --data-binary '[]' "http://127.0.0.1:$port/filter") == 400 ]] ||
  fail "$(<"$work/extend.json")"

note "what it was told is good for a moment, and then a node that does not answer keeps nobody waiting"
best || fail "$(<"$work/extend.json")"
use_node 2
kill -STOP "$node_pid"
best || fail "it asks again at once: $(<"$work/extend.json")"
sleep 5
scored 'length == 3 and all(.score == 0)' "$registry/app:1" || fail "$(<"$work/extend.json")"
kill -CONT "$node_pid"
sleep 5
wait_until best || fail "it does not come back: $(cat "$work/extend.json" "$work/extender.log")"
kill "$extender"

note "pods that come are hinted at, those that go are cancelled, and a restart of the node is outlived"
pod() {
  jq -n --arg uid "$1" --arg image "$2" --arg node "$3" --arg phase "$4" \
    '{kind: "Pod", metadata: {uid: $uid}, spec: {nodeName: $node, containers: [{image: $image}]}, status: {phase: $phase}}'
}
mkfifo "$work/pods"
use_node 2
kill -STOP "$registry_pid"
TMPDIR=$work /usr/bin/python3 -B "$examples/hint_client.py" --socket "$(socket 2)" --pods node-2 --give-up 100 <"$work/pods" >"$work/pods.log" 2>&1 & client=$!
exec {pods}>"$work/pods"
pod one "$registry/other:1" "" Pending >&"$pods"
pod elsewhere "$registry/other:1" node-1 Pending >&"$pods"
hints() { [[ $(sluice --output json prefetch list | jq -c '[.hints[].state] | sort') == "$1" ]]; }
wait_until hints '["resolving"]' || fail "$(sluice prefetch list; cat "$work/pods.log")"
pod one "$registry/other:1" node-2 Pending >&"$pods"
wait_until hints '["cancelled","resolving"]' || fail "$(sluice prefetch list; cat "$work/pods.log")"
journalled() { [[ $(jq -c '[.hints[].priority]' "$data_dir/hints.json") == '[50]' ]]; }
wait_until journalled || fail "$(<"$data_dir/hints.json")"
kill -KILL "$node_pid"
wait_until gone "$node_pid" || fail "the node lives"
kill -CONT "$registry_pid"
exec {pods}>&-
restart_node
wait "$client" || fail "the client failed: $(<"$work/pods.log")"
grep -q 'other:1 completed' "$work/pods.log" || fail "it has lost the hint: $(<"$work/pods.log")"

note "one node is asked for several: what a pod may come to gets its image, and where it does not come the hint is ended"
app_blob=$(data_blob_of app)
wait_until knows_all || fail "node 2 does not know the other: $(sluice peers)"
use_node 1
pod three "$registry/app:1" "" Pending >"$work/pod"
python "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1,node-2 --give-up 100 <"$work/pod" >"$work/pods.log" 2>&1 ||
  fail "the client failed: $(<"$work/pods.log")"
grep -q 'app:1 completed.*node-1 taken, node-2 taken' "$work/pods.log" || fail "$(<"$work/pods.log")"
use_node 2
whole() { [[ $(sluice --output json blob stat "$app_blob" | jq '.present_bytes == .size_bytes') == true ]]; }
wait_until whole || fail "node 2 has not brought it in: $(sluice prefetch list)"
use_node 1
kill -STOP "$registry_pid"
pod four "$registry/missing:2" "" Pending >"$work/pod"
pod four "$registry/missing:2" node-1 Pending >>"$work/pod"
TMPDIR=$work /usr/bin/python3 -B "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1,node-2 --give-up 100 <"$work/pod" \
  >"$work/pods.log" 2>&1 & client=$!
use_node 2
ended() { sluice --output json prefetch list | jq -e --arg image "$registry/missing:2" \
  '[.hints[] | select(.reference == $image) | .state] == ["cancelled"]' >"$work/output"; }
wait_until ended || fail "$(sluice prefetch list; cat "$work/pods.log")"
kill -CONT "$registry_pid"
wait "$client" || fail "the client failed: $(<"$work/pods.log")"

note "blobs without images"
settings=$(manifest other | jq -r .config.digest)
python "$examples/hint_client.py" --socket "$(socket 1)" --target node-2 --blob "$registry/other@$settings" >"$work/hint.log" 2>&1 ||
  fail "$(<"$work/hint.log")"
grep -q "passed_on.*node-2 taken" "$work/hint.log" || fail "$(<"$work/hint.log")"
nodes_down
