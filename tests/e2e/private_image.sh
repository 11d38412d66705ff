#!/usr/bin/env bash
# A private image in a registry that asks for tokens: nodes that may pull it mount it, one that may not is refused though
# others have it, who is not a member learns nothing, and no secret gets into logs and metrics. BACKEND chooses the
# kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 4000000 --files 40
start_registry
use_node 1
write_config
push_tree "$work/tree" team/app
blob=$(data_blob_of team/app)
size=$(data_size_of team/app)
digest=$(manifest team/app | sha256sum | cut -d' ' -f1)

# Its own registry's address is the gate's for the nodes.
gate=127.0.0.1:$(free_port)
python3 -B "$repository_root/tests/net/token_registry.py" "$gate" "$registry" \
  team/app=ann:secret-of-ann >"$work/gate.log" 2>"$work/gate.err" &
wait_until curl -s -o "$work/body" "http://$gate/v2/" || fail "the gate does not open: $(<"$work/gate.err")"
registry=$gate

# credentials N USER:PASSWORD: what node N has for the gate.
credentials() {
  mkdir -p "$work/node$1"
  printf '{"auths":{"%s":{"auth":"%s"}}}' "$gate" "$(printf %s "$2" | base64)" >"$work/node$1/docker.json"
}
# start_tenant N COUNT: node N with its credentials.
start_tenant() {
  use_node "$1"
  start_node "$(cluster_config "$1" "$2" 'refresh: 500ms')" 'origin:' "  dockerConfig: \"$work/node$1/docker.json\""
}
credentials 1 ann:secret-of-ann
credentials 2 ann:secret-of-ann
credentials 3 ann:wrong-secret
for i in 1 2 3; do start_tenant $i 3; done

note "who may pull it mounts it"
for i in 1 2; do
  use_node $i
  sluice mount "$gate/team/app:1" "$work/node$i/mnt" >&2
  reads_right "$work/tree" "$work/node$i/mnt" || fail "node $i can't read the image"
done

note "who may not is refused by tag and by digest, though others have it"
use_node 3
for image in "$gate/team/app:1" "$gate/team/app@sha256:$digest"; do
  if sluice mount "$image" "$work/node3/mnt" >"$work/refused" 2>&1; then fail "node 3 mounts $image"; fi
done
# It may have been asked for it as a home, in vain.
[[ $(sluice --output json blob ls | jq '[.blobs[]?.present_bytes] | add // 0') == 0 ]] || fail "node 3 has something of it"

note "whoever can connect is told the same of what is here and of what is not"
# route PATH [CURL'S OPTIONS]: status and body.
route() { curl -sS -w '%{http_code}' "${@:2}" "http://$(peer_address 1)$1"; }
curl -fsS -u ann:secret-of-ann "http://$gate/token?scope=repository:team/app:pull" | jq -r .token >"$work/token"
absent=sha256:$(head -c 16 /dev/urandom | sha256sum | cut -d' ' -f1)
for path in "blobs/DIGEST?ns=$gate" "manifests/DIGEST?ns=$gate"; do
  here=$(route "/v2/team/app/${path/DIGEST/$([[ $path == blobs* ]] && echo "$blob" || echo "sha256:$digest")}")
  not_here=$(route "/v2/team/app/${path/DIGEST/$absent}")
  [[ $here == "$not_here" && $here == *404 ]] || fail "$path: $here and $not_here"
done
# as_role ROLE DIGEST
as_role() {
  route "/v2/team/app/blobs/$2?ns=$gate" -H "Sluice-Role: $1" -r 0-100 -H "Sluice-Token: $(<"$work/token")" \
    -H "Sluice-Blob: size=$size; chunk=262144; public=1; enc=plain"
}
as_role present-only "$blob" >"$work/here"
as_role present-only "$absent" >"$work/not"
cmp "$work/here" "$work/not" || fail "there is a difference: $(<"$work/here") and $(<"$work/not")"
as_role home "$blob" >"$work/home.here"
[[ $(<"$work/home.here") == *ask-yourself*403 ]] || fail "a stranger gets $(<"$work/home.here")"
as_role home "$absent" >"$work/home.not"
cmp "$work/home.here" "$work/home.not" || fail "a home tells $(<"$work/home.here") and $(<"$work/home.not")"
for named in "sha256:$digest" "$absent"; do
  told=$(route "/v2/team/app/manifests/$named?ns=$gate" -H 'Sluice-Role: home')
  [[ $told == *ask-yourself*403 ]] || fail "a home says of manifest $named: $told"
done

note "no secret is written anywhere"
for i in 1 2 3; do
  use_node $i
  curl -fsS "http://$listen/metrics" >"$work/node$i/metrics"
done
if grep -rlE 'secret-of-ann|wrong-secret|anybody-[0-9]' "$work"/node?/sluiced.log "$work"/node?/metrics "$work"/node?/run \
  "$work"/node?/data/mounts.json "$work"/node?/data/manifests; then
  fail "a secret is in a file"
fi
