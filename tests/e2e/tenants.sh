#!/usr/bin/env bash
# Two nodes that have no credentials, and somebody's private image: each node's container runtime shows what he gave it,
# and by that the node fetches. The registry gives each byte once to both, strangers get nothing of it, and what was
# shown is in no file.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_images.sh"
source "$e2e_dir/lib_tls.sh"

export BACKEND=off
readonly nodes=2
start_registry
push_random team/app 12000000
manifest team/app >"$work/manifest"
digest=sha256:$(sha256sum <"$work/manifest" | cut -d' ' -f1)

gate=127.0.0.1:$(free_port)
python3 -B "$repository_root/tests/net/token_registry.py" "$gate" "$registry" \
  team/app=ann:secret-of-ann >"$work/gate.log" 2>"$work/gate.err" &
wait_until curl -s -o "$work/body" "http://$gate/v2/" || fail "the gate does not open: $(<"$work/gate.err")"
registry=$gate

mirror_of() { echo "127.0.0.$1:$mirror_port"; }
mirror_port=$(free_port)
knows_the_other() {
  sluice --output json peers |
    jq -e '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == 1' >"$work/peers"
}

tls_authority cluster
for ((i = 1; i <= nodes; ++i)); do
  tls_node cluster "$i"
  use_node "$i"
  start_node "$(cluster_config "$i" "$nodes" "name: node-$i" 'refresh: 500ms')" "$(tls_config "$i")" \
    'mirror:' "  listen: \"$(mirror_of "$i")\"" 'origin:' '  dockerConfig: /nowhere/docker.json'
done
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_the_other || fail "node $i does not know the other: $(sluice peers)"
done

# token: a new one of ann's.
token() { curl -fsS -u ann:secret-of-ann "http://$gate/token?scope=repository:team/app:pull" | jq -r .token; }
# pull N PATH OUTPUT [TOKEN]: as a runtime of node N's host does; prints the status.
pull() {
  local shown=()
  [[ -z ${4-} ]] || shown=(-H "Authorization: Bearer $4")
  curl -sS -o "$3" -w '%{http_code}' "${shown[@]}" "http://$(mirror_of "$1")/v2/team/app/$2?ns=$gate"
}
layer_bytes_asked() {
  awk -v blob="/blobs/$layer" 'index($0, blob) && / 20[06] / && !/"HEAD/ { sum += $(NF - 1) } END { print sum + 0 }' "$work/gate.log"
}

all_is_logged() { (($(layer_bytes_asked) >= size)); }

for ((i = 1; i <= nodes; ++i)); do
  note "node $i gives it to who may have it, byte for byte"
  own=$(token)
  [[ $(pull $i manifests/1 "$work/got" "$own") == 200 ]] || fail "node $i gives no manifest: $(<"$work/got")"
  cmp "$work/got" "$work/manifest" || fail "node $i gives another manifest"
  [[ $(pull $i "blobs/$layer" "$work/got" "$own") == 200 ]] || fail "node $i gives no layer: $(head -c 300 "$work/got")"
  cmp "$work/got" "$work/layer.gz" || fail "node $i gives other bytes"
  # It logs what it has sent.
  wait_until all_is_logged || fail "node $i has the layer, and the registry gave $(layer_bytes_asked) bytes of $size"
  asked[i]=$(layer_bytes_asked)
done
echo "the registry gave ${asked[1]} bytes of a layer of $size for the first node, ${asked[2]} for both"
# A member that is late once, on a busy machine, costs a few chunks.
((asked[1] >= size && asked[1] <= size + 1200000)) || fail "the first node took ${asked[1]} bytes of $size"
((asked[2] <= asked[1] + 1200000)) || fail "the second node took $((asked[2] - asked[1])) bytes"

note "who shows nothing of it, or something else, learns as much as from the registry"
for ((i = 1; i <= nodes; ++i)); do
  for path in manifests/1 "manifests/$digest" "blobs/$layer" "blobs/sha256:$(printf %064d 0)"; do
    [[ $(pull $i "$path" "$work/refused" nobodys) == 401 ]] || fail "node $i says of $path: $(<"$work/refused")"
    ! cmp -s "$work/refused" "$work/layer.gz" || fail "a stranger has it"
  done
done

note "and no node keeps a manifest that its own right does not give"
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  ! ls "$work/node$i/data/manifests"/* >"$work/kept" 2>&1 || fail "node $i keeps a manifest: $(<"$work/kept")"
done

note "no secret is written anywhere"
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  curl -fsS "http://$listen/metrics" >"$work/node$i/metrics"
done
if grep -rlE 'secret-of-ann|anybody-[0-9]' "$work"/node?/sluiced.log "$work"/node?/metrics "$work"/node?/run "$work"/node?/data; then
  fail "a secret is in a file"
fi
