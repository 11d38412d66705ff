#!/usr/bin/env bash
# Where images are: a node tells what it has itself and what the others have, of images that it has never seen too, and
# follows what changes.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

readonly nodes=3
for tree in app part; do
  mkdir "$work/$tree"
  python3 "$e2e_dir/make_tree.py" "$work/$tree" --bytes 16000000 --files 20 --seed "${#tree}"
done
start_registry
use_node 1
write_config
for tree in app part; do push_tree "$work/$tree" "$tree"; done
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  start_node "$(cluster_config "$i" "$nodes" "name: node-$i" 'refresh: 500ms')"
done
knows_all() { [[ $(sluice --output json peers | jq '[.peers[] | select(.name != "")] | length') == $((nodes - 1)) ]]; }
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the others: $(sluice peers)"
done

# locality N REF...: as node N tells of the cluster.
locality() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" --output json prefetch locality "${@:2}"; }
# says JQ N REF: whether node N's answer is so.
says() { locality "$2" --cluster "$3" >"$work/locality.json" 2>"$work/locality.log" && jq -e "$1" "$work/locality.json" >"$work/output"; }

note "of an image that nobody has the nodes know its size"
says '.images[0] | .total_bytes > 16000000 and .present_bytes == 0 and .nodes == []' 2 "$registry/app:1" ||
  fail "$(cat "$work/locality.json" "$work/locality.log")"

# agrees N REF: whether what node N tells of each node is what that one says of itself; the one with most first.
agrees() {
  local i own
  says '.images[0].nodes | map(.present_bytes) | . == (sort | reverse) and all(. > 0)' "$@" || return 1
  for ((i = 1; i <= nodes; ++i)); do
    own=$(locality "$i" "$2" | jq '.images[0].present_bytes')
    [[ $(jq --arg name "node-$i" '[.images[0].nodes[] | select(.name == $name) | .present_bytes] | add // 0' \
      "$work/locality.json") == "$own" ]] || return 1
  done
}

note "the node that has it all is told by the others, before those that have fetched parts for it as homes"
use_node 1
sluice prefetch submit "$registry/app:1" 2>"$work/submit.log" >&2 || fail "it can't be had: $(<"$work/submit.log")"
wait_until says '.images[0] | .nodes[0] == {name: "node-1", present_bytes: .total_bytes}' 3 "$registry/app:1" ||
  fail "$(cat "$work/locality.json" "$work/locality.log")"
wait_until agrees 3 "$registry/app:1" || fail "$(cat "$work/locality.json" "$work/locality.log")"
locality 1 "$registry/app:1" | jq -e '.images[0] | .present_bytes == .total_bytes and .nodes == []' >"$work/output" ||
  fail "node 1 does not know what it has"

note "so are those that have parts, and what comes later"
blob=$(data_blob_of part)
use_node 1
sluice prefetch submit "$registry/part:1" --range "$blob:0+5000000" 2>"$work/submit.log" >&2 || fail "$(<"$work/submit.log")"
wait_until agrees 3 "$registry/part:1" || fail "$(cat "$work/locality.json" "$work/locality.log")"
says '.images[0] | .nodes[0].name == "node-1" and .nodes[0].present_bytes < .total_bytes' 3 "$registry/part:1" ||
  fail "$(<"$work/locality.json")"
use_node 2
sluice prefetch submit "$registry/part:1" --range "$blob:0+9000000" 2>"$work/submit.log" >&2 || fail "$(<"$work/submit.log")"
wait_until agrees 3 "$registry/part:1" || fail "$(cat "$work/locality.json" "$work/locality.log")"
says '.images[0].nodes[0] | .name == "node-2" and .present_bytes > 9000000' 3 "$registry/part:1" ||
  fail "$(<"$work/locality.json")"

note "what is wrong with one image does not keep the others from being told"
locality 2 --cluster "$registry/missing:1" "$registry/app:1" "registry.example/other/app:1" >"$work/locality.json" \
  2>"$work/locality.log" && fail "a missing image looks like a success"
jq -e '.images | (.[0].error.code == 5) and (.[1].error == null) and (.[1].nodes | length > 0) and (.[2].error.code == 7)' \
  "$work/locality.json" >"$work/output" || fail "$(<"$work/locality.json")"
expect_failure $exit_usage 'references\[1\]' sluice prefetch locality "$registry/app:1" "$registry/UPPER:1"
if buf=$(bash "$repository_root/tests/tidy/fetch_buf.sh" 2>"$work/buf.log"); then
  call() { "$buf" curl --unix-socket "$run_dir/prefetch.sock" --protocol grpc --http2-prior-knowledge \
    --data "$1" "http://localhost/sluice.v1.PrefetchService/GetLocality"; }
  call "{\"references\": [\"$registry/app:1\"], \"scope\": \"LOCALITY_SCOPE_CLUSTER\"}" >"$work/buf.json" 2>&1 ||
    fail "buf can't ask: $(<"$work/buf.json")"
  [[ $(jq -r '.images[0].nodes[0].name' "$work/buf.json") == node-1 ]] || fail "$(<"$work/buf.json")"
  call '{"references": ["r/a:1"]}' >"$work/buf.json" 2>&1 && fail "no scope is taken for one"
  grep -q 'google.rpc.BadRequest' "$work/buf.json" || fail "the error has no details: $(<"$work/buf.json")"
fi

note "one call reaches the nodes that it names, by their names; who does not answer holds up nobody"
use_node 2
mkdir "$work/named"
python3 "$e2e_dir/make_tree.py" "$work/named" --bytes 4000000 --files 5 --seed 99
push_tree "$work/named" named
kill -STOP "${node_pids[3]}"
sluice --output json prefetch submit "$registry/named:1" --id named --target node-1 --target node-3 --target nobody \
  --detach >"$work/hint.json" || fail "$(<"$work/hint.json")"
jq -e '.hints[0] | .state == "passing_on" and (.targets | map(select(.name == "nobody"))[0].state == "failed")' \
  "$work/hint.json" >"$work/output" || fail "$(<"$work/hint.json")"
sluice --output json prefetch watch named >"$work/hint.json" || fail "it was not passed on: $(<"$work/hint.json")"
kill -CONT "${node_pids[3]}"
[[ $(jq -c '.hints[0] | [.state, (.targets | map(.state))]' "$work/hint.json") == '["passed_on",["failed","taken","failed"]]' ]] ||
  fail "$(<"$work/hint.json")"
use_node 1
sluice --output json prefetch watch named >"$work/hint.json" || fail "node 1 has not taken it: $(<"$work/hint.json")"
[[ $(jq -r '.hints[0].state' "$work/hint.json") == completed ]] || fail "$(<"$work/hint.json")"
peers=http://$(peer_address 1)
for body in '{}' '{"sender": "stranger", "hint": {"id": "x", "reference": "r/a:1", "priority": 0, "scheduler": "", "pin": false, "taken": 0}}'; do
  code=$(curl -sS -o "$work/answer" -w '%{http_code}' --data "$body" "$peers/sluice/v1/hints")
  [[ $code == 400 || $code == 403 ]] || fail "$code to $body: $(<"$work/answer")"
done
expect_failure $exit_not_found 'nobody' sluice prefetch submit "$registry/named:1" --target nobody

note "a node that is gone is named no more, and a registry that is away keeps nobody from an answer"
use_node 1
stop_node
node_pids[1]=
gone_is_told() { says '[.images[0].nodes[].name] | index("node-1") == null' 3 "$registry/part:1"; }
wait_until gone_is_told || fail "node 1 is told still: $(<"$work/locality.json")"
kill -STOP "$registry_pid"
started=$SECONDS
locality 3 "$registry/nobody-knows:1" >"$work/locality.json" 2>"$work/locality.log" && fail "it knows what nobody can know"
jq -e '.images[0].error.code == 4' "$work/locality.json" >"$work/output" || fail "$(cat "$work/locality.json" "$work/locality.log")"
kill -CONT "$registry_pid"
echo "an answer without a registry took $((SECONDS - started)) s" >&2
nodes_down
