#!/usr/bin/env bash
# Three nodes that prove to each other who they are, and a private image that two of them may pull: these mount it at
# once, each asks for one token, the registry gives each byte once; the third fetches for them as a home, and is
# refused itself. No secret gets into logs and metrics. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_tls.sh"

readonly nodes=3
mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 16000000 --files 60
start_registry
use_node 1
write_config
push_tree "$work/tree" team/app
blob=$(stored_blob_of team/app)
bootstrap=$(manifest team/app | jq -r '.layers[-1].digest')
digest=$(manifest team/app | sha256sum | cut -d' ' -f1)
stored_size=$(manifest team/app | jq -r '.layers[0].size')

gate=127.0.0.1:$(free_port)
python3 -B "$repository_root/tests/net/token_registry.py" "$gate" "$registry" \
  team/app=ann:secret-of-ann >"$work/gate.log" 2>"$work/gate.err" &
wait_until curl -s -o "$work/body" "http://$gate/v2/" || fail "the gate does not open: $(<"$work/gate.err")"
registry=$gate

# asked PATTERN: what the gate answered so.
asked() { grep -cE -- "$1" "$work/gate.log" || true; }
tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }
knows_all() {
  sluice --output json peers |
    jq -e --argjson others $((nodes - 1)) '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == $others' \
      >"$work/peers"
}

tls_authority cluster
credentials=(- ann:secret-of-ann ann:secret-of-ann ann:wrong-secret)
for ((i = 1; i <= nodes; ++i)); do
  tls_node cluster "$i"
  printf '{"auths":{"%s":{"auth":"%s"}}}' "$gate" "$(printf %s "${credentials[i]}" | base64)" >"$work/node$i/docker.json"
  use_node "$i"
  start_node "$(cluster_config "$i" "$nodes" "name: node-$i" 'refresh: 500ms')" "$(tls_config "$i")" \
    'origin:' "  dockerConfig: \"$work/node$i/docker.json\""
done
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the others: $(sluice peers)"
done

note "two nodes mount it at once: a token each, and each byte from the registry once"
for i in 1 2; do tool_of $i mount "$gate/team/app:1" "$work/node$i/mnt" >"$work/mount$i" 2>&1 & pids[i]=$!; done
for i in 1 2; do wait "${pids[i]}" || fail "node $i can't mount the image: $(<"$work/mount$i")"; done
for i in 1 2; do
  reads_right "$work/tree" "$work/node$i/mnt" || fail "node $i can't read the image"
done
tokens=$(asked '"GET /token[^"]*" 200')
# Those of its recipes beside.
manifests=$(asked "\"GET /v2/team/app/manifests/(1|sha256:$digest) [^\"]*\" 200")
bootstraps=$(asked "\"GET /v2/team/app/blobs/${bootstrap}[^\"]*\" 20[06]")
bytes=$(awk -v blob="/blobs/$blob" 'index($0, blob) && / 20[06] / { sum += $(NF - 1) } END { print sum + 0 }' "$work/gate.log")
echo "two nodes: $tokens tokens, $manifests manifests, $bootstraps times the bootstrap, $bytes bytes of a blob of $stored_size"
((tokens == 2)) || fail "$tokens token requests of two nodes: $(grep /token "$work/gate.log")"
((manifests <= 3)) || fail "$manifests requests for manifests"
((bootstraps == 1)) || fail "$bootstraps requests for the bootstrap"
((bytes <= stored_size + 1000000)) || fail "the registry gave $bytes bytes of a blob of $stored_size"
received=0
for i in 1 2; do
  use_node $i
  received=$((received + $(metric sluice_peer_received_bytes_total 'lane="express"')))
done
((received > 0)) || fail "nothing came from members"

note "who may not is refused by tag and by digest, though it has fetched for others"
use_node 3
(($(metric sluice_peer_sent_bytes_total 'lane="express"') > 0)) || fail "node 3 has given nothing to the others"
for image in "$gate/team/app:1" "$gate/team/app@sha256:$digest"; do
  expect_failure "$exit_refused" 'docker login' sluice mount "$image" "$work/node3/mnt"
done

note "no secret is written anywhere"
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  curl -fsS "http://$listen/metrics" >"$work/node$i/metrics"
done
if grep -rlE 'secret-of-ann|wrong-secret|anybody-[0-9]' "$work"/node?/sluiced.log "$work"/node?/metrics "$work"/node?/run \
  "$work"/node?/data/mounts.json "$work"/node?/data/manifests; then
  fail "a secret is in a file"
fi
