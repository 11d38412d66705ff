#!/usr/bin/env bash
# A private image that a node may not pull itself is brought in by the credentials of a hint, here and on a member that
# the hint names: nobody may mount it for that, the hint does not outlive the node, its end reaches the member, and the
# password is written nowhere. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_tls.sh"

readonly nodes=2 secret=s3cret-of-ann
mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 12000000 --files 40
start_registry
use_node 1
LOG_LEVEL=debug write_config
push_tree "$work/tree" team/app
blob=$(data_blob_of team/app)
digest=$(manifest team/app | sha256sum | cut -d' ' -f1)
python3 -W ignore -c 'import crypt, sys; print("ann:" + crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)))' \
  "$secret" >"$work/htpasswd"
address=$registry
registry_more=("auth: {htpasswd: {realm: test, path: $work/htpasswd}}")
restart_registry() { start_registry "$address"; }
stop_registry
restart_registry

tls_authority cluster
export LOG_LEVEL=debug
for ((i = 1; i <= nodes; ++i)); do
  tls_node cluster "$i"
  use_node "$i"
  start_node "$(cluster_config "$i" "$nodes" "name: node-$i" 'refresh: 500ms')" "$(tls_config "$i")"
done
knows_all() { [[ $(sluice --output json peers | jq '[.peers[] | select(.name != "")] | length') == $((nodes - 1)) ]]; }
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the other: $(sluice peers)"
done
use_node 1
image=$registry/team/app:1

# submit PASSWORD ARGUMENT...
submit() { sluice --output json prefetch submit "$image" --username ann --password-stdin "${@:2}" <<<"$1"; }
state_of() { jq -r '.hints[0].state' "$work/hint.json"; }

note "credentials that are none, or wrong, and what goes without"
expect_failure "$exit_usage" 'password-stdin' sluice prefetch submit "$image" --username ann
bad_name() { sluice prefetch submit "$image" --username a:b --password-stdin <<<"$secret"; }
expect_failure "$exit_usage" 'credentials.username' bad_name
expect_failure "$exit_usage" 'nothing stands' sluice prefetch submit "$image" --username ann --password-stdin </dev/null
expect_failure "$exit_refused" 'docker login' sluice prefetch submit "$image"
expect_failure "$exit_refused" 'credentials given' submit "wrong-$secret" --id wrong
jq -e '.hints[] | select(.id == "wrong") | .state == "failed"' <(sluice --output json prefetch list) >"$work/output" ||
  fail "$(sluice prefetch list)"

note "the right ones bring it in, here and on the member that is named"
submit "$secret" --id both --target node-1 --target node-2 >"$work/hint.json" || fail "$(<"$work/hint.json")"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"
is_whole() { [[ $(sluice --output json blob stat "$blob" | jq '.present_bytes == .size_bytes') == true ]]; }
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  sluice --output json prefetch watch both >"$work/hint.json" || fail "on node $i: $(<"$work/hint.json")"
  is_whole || fail "the blob is not whole on node $i"
done

note "nobody may mount it for that, whether the registry answers or not"
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  for name in "$image" "$registry/team/app@sha256:$digest"; do
    expect_failure "$exit_refused" 'docker login' sluice mount "$name" "$work/node$i/mnt"
  done
done
use_node 1
stop_registry
for name in "$image" "$registry/team/app@sha256:$digest"; do
  if sluice mount "$name" "$work/node1/mnt" >"$work/refused" 2>&1; then fail "$name is mounted without its registry"; fi
done

note "a hint that waits does not outlive the node, its client learns it, and its id may be used once more"
submit "$secret" --id waits --detach >"$work/hint.json"
journalled() { jq -e '.hints[] | select(.id == "waits") | .hadCredentials' "$data_dir/hints.json" >"$work/output"; }
wait_until journalled || fail "$(<"$data_dir/hints.json")"
kill -KILL "$node_pid"
wait_until gone "$node_pid" || fail "the node lives"
restart_registry
restart_node
expect_failure "$exit_refused" 'submit the hint again' sluice prefetch watch waits
expect_failure "$exit_refused" 'lost in a restart' sluice prefetch submit "$image" --id waits
submit "$secret" --id waits >"$work/hint.json" || fail "$(<"$work/hint.json")"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"

note "the end of a hint reaches the members that have taken it, and it is said which were not reached"
wait_until knows_all || fail "node 1 does not know the other: $(sluice peers)"
stop_registry
submit "$secret" --id ended --target node-2 --detach >"$work/hint.json"
passed_on() { sluice --output json prefetch watch ended >"$work/hint.json"; [[ $(state_of) == passed_on ]]; }
wait_until passed_on || fail "$(<"$work/hint.json")"
kill -STOP "${node_pids[2]}"
expect_failure "$exit_failed" 'node-2.*not reached' sluice prefetch cancel ended
kill -CONT "${node_pids[2]}"
ended() { sluice --output json prefetch cancel ended >"$work/hint.json" 2>"$work/output"; }
wait_until ended || fail "$(cat "$work/hint.json" "$work/output")"
[[ $(jq -r '.hints[0].targets[0].state' "$work/hint.json") == cancelled ]] || fail "$(<"$work/hint.json")"
use_node 2
expect_failure "$exit_failed" 'was cancelled' sluice prefetch watch ended

note "the password is written nowhere"
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  curl -fsS "http://$listen/metrics" >"$work/node$i/metrics"
  { sluice --output json prefetch list; sluice --output json status; sluice peers; } >"$work/node$i/told" 2>&1
done
encoded=$(printf 'ann:%s' "$secret" | base64)
if grep -rlaE "$secret|$encoded" "$work"/node?/sluiced.log "$work"/node?/metrics "$work"/node?/told "$work"/node?/run \
  "$work"/node?/data; then
  fail "a secret is in a file"
fi
nodes_down
