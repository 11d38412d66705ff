#!/usr/bin/env bash
# The clients of api/examples against two nodes: the extender scores nodes by what they have, keeps nobody waiting, and
# never leaves a pod without a node; the hint client follows hints over a restart, and pods and workloads that come and go.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

readonly nodes=2
examples=$repository_root/api/examples
# Debian's Python, which sees Debian's gRPC.
python() { TMPDIR=$work /usr/bin/python3 -B "$@"; }
for tree in app other nightly; do
  mkdir "$work/$tree"
  python3 "$e2e_dir/make_tree.py" "$work/$tree" --bytes 12000000 --files 20 --seed "${#tree}"
done
start_registry
use_node 1
write_config
for tree in app other nightly; do push_tree "$work/$tree" "$tree"; done
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
  --verbose >"$work/extender.log" 2>&1 & extender=$!
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
# As kube-scheduler writes it, with null for what it does not give.
jq -n --arg image "$registry/app:1" '{Pod: {metadata: {namespace: "default", name: "web"}, spec: {containers: [{image: $image}]}},
  Nodes: null, NodeNames: ["node-1", "node-2"]}' >"$work/arguments.json"
for verb in filter prioritize; do
  curl -fsS --data-binary "@$work/arguments.json" "http://127.0.0.1:$port/$verb" >"$work/extend-$verb.json"
done
jq -e '.nodenames == ["node-1"]' "$work/extend-filter.json" >"$work/output" || fail "$(<"$work/extend-filter.json")"
jq -e '.[0].host == "node-1" and .[0].score == 10' "$work/extend-prioritize.json" >"$work/output" || fail "$(<"$work/extend-prioritize.json")"
grep -q '^filter default/web leaves node-1$' "$work/extender.log" || fail "it does not say so: $(<"$work/extender.log")"
grep -q '^prioritize default/web scores node-1 10, node-2 ' "$work/extender.log" || fail "it does not say so: $(<"$work/extender.log")"
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

note "a workload's new image comes to the nodes that run the version before, ahead of any pod that has it"
# deployment GENERATION IMAGE [REPLICAS], and pods of it: web_pod UID IMAGE NODE
deployment() {
  jq -n --argjson generation "$1" --arg image "$2" --argjson replicas "${3-1}" \
    '{kind: "Deployment", metadata: {uid: "deployment", namespace: "default", name: "web", generation: $generation},
      spec: {replicas: $replicas, template: {spec: {containers: [{image: $image}]}}}}'
}
web_pod() {
  pod "$1" "$2" "$3" Running | jq '.metadata += {namespace: "default", labels: {"pod-template-hash": "6f7"},
    ownerReferences: [{kind: "ReplicaSet", name: "web-6f7"}]}'
}
event() { jq -c --arg type "$1" '{type: $type, object: .}'; }
mkfifo "$work/deployments"
kill -STOP "$registry_pid"
TMPDIR=$work /usr/bin/python3 -B "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1,node-2 --give-up 100 \
  --from "$work/pods" --from "$work/deployments" >"$work/pods.log" 2>&1 & client=$!
exec {pods}>"$work/pods" {deployments}>"$work/deployments"
# hinted N TAG STATES: the states of node N's hints at web:TAG; those that are not over are open.
hinted() {
  use_node "$1"
  sluice --output json prefetch list | jq -e --arg image "$registry/web:$2" --arg states "$3" \
    '[.hints[] | select(.reference == $image) | .state | if . == "queued" or . == "resolving" then "open" else . end]
     | sort | join(" ") == $states' >"$work/output"
}
await_hinted() { wait_until hinted "$@" || fail "node $1, web:$2: $(sluice prefetch list; cat "$work/pods.log")"; }
# heard TAG: all that was written to the deployments' pipe before.
heard() {
  pod "$1" "$registry/web:$1" node-2 Running >&"$deployments"
  await_hinted 2 "$1" open
}
deployment 1 "$registry/web:1" | event ADDED >&"$deployments"
web_pod old "$registry/web:1" node-2 | event ADDED >&"$pods"
await_hinted 2 1 open
deployment 2 "$registry/web:2" | event MODIFIED >&"$deployments"
await_hinted 2 2 open
priority_of_web_2() { jq -e --arg image "$registry/web:2" '.hints[] | select(.reference == $image) | .priority == 25' "$data_dir/hints.json" >"$work/output"; }
wait_until priority_of_web_2 || fail "$(<"$data_dir/hints.json")"
await_hinted 1 2 passed_on
note "told again and late it is not given again, changed once more the former is cancelled, and given anew when it is back"
deployment 2 "$registry/web:2" | event MODIFIED >&"$deployments"
deployment 3 "$registry/web:3" | event MODIFIED >&"$deployments"
deployment 2 "$registry/web:2" | event MODIFIED >&"$deployments"
heard late-change
hinted 2 3 open && hinted 2 2 cancelled || fail "what was told late counts: $(sluice prefetch list)"
deployment 4 "$registry/web:1" | event MODIFIED >&"$deployments"
await_hinted 2 3 cancelled
deployment 5 "$registry/web:3" | event MODIFIED >&"$deployments"
await_hinted 2 3 'cancelled open'
deployment 6 "$registry/web:3" 0 | event MODIFIED >&"$deployments"
await_hinted 2 3 'cancelled cancelled'
deployment 7 "$registry/web:4" 1 | event MODIFIED >&"$deployments"
await_hinted 2 4 open
deployment 7 "$registry/web:4" 1 | event DELETED >&"$deployments"
deployment 8 "$registry/web:6" 1 | event MODIFIED >&"$deployments"
heard late-deletion
hinted 2 4 cancelled && hinted 2 6 '' || fail "what was deleted comes back: $(sluice prefetch list)"
note "a pod of the version before that is told after the change is as good"
deployment 1 "$registry/web:5" | jq '.metadata += {uid: "another", name: "later"}' >&"$deployments"
await_hinted 2 5 ''
web_pod late "$registry/web:1" node-2 | jq '.metadata.ownerReferences[0].name = "later-6f7"' >&"$pods"
await_hinted 2 5 open
exec {pods}>&- {deployments}>&-
kill -CONT "$registry_pid"
wait "$client" || fail "the client failed: $(<"$work/pods.log")"

note "a CronJob's next run is hinted at where its former one was, and that from a list"
pod nightly "$registry/app:1" node-2 Succeeded | jq --arg image "$registry/nightly:1" \
  '.metadata += {namespace: "default", ownerReferences: [{kind: "Job", name: "nightly-27000000"}]} |
   {kind: "List", items: [., {kind: "CronJob", metadata: {uid: "cron", namespace: "default", name: "nightly"},
     spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: $image}]}}}}}}]}' >"$work/list"
python "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1,node-2 --from "$work/list" >"$work/pods.log" 2>&1 ||
  fail "the client failed: $(<"$work/pods.log")"
grep -q 'nightly:1 passed_on.*node-2 taken' "$work/pods.log" || fail "$(<"$work/pods.log")"
app_blob=$(data_blob_of nightly)
use_node 2
wait_until whole || fail "node 2 has not brought it in: $(sluice prefetch list)"

note "what is no object of Kubernetes is said and left out, and a stream that is damaged ends the client"
{ echo '{"kind": "Deployment"}'; pod five "$registry/app:1" node-1 Pending; } >"$work/list"
python "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1 <"$work/list" >"$work/pods.log" 2>&1 || fail "$(<"$work/pods.log")"
grep -q "^-: no object of Kubernetes: KeyError('metadata')" "$work/pods.log" || fail "$(<"$work/pods.log")"
grep -q 'app:1 completed' "$work/pods.log" || fail "$(<"$work/pods.log")"
pod six "$registry/app:1" node-1 Pending | head -n 4 >"$work/list"
pod six "$registry/app:1" node-1 Pending >>"$work/list"
expect_failure $exit_failed 'list: no JSON documents: ' python "$examples/hint_client.py" --socket "$(socket 1)" --pods node-1 \
  --from "$work/list" --from "$work/pods"

note "blobs without images"
settings=$(manifest other | jq -r .config.digest)
python "$examples/hint_client.py" --socket "$(socket 1)" --target node-2 --blob "$registry/other@$settings" >"$work/hint.log" 2>&1 ||
  fail "$(<"$work/hint.log")"
grep -q "passed_on.*node-2 taken" "$work/hint.log" || fail "$(<"$work/hint.log")"
nodes_down
