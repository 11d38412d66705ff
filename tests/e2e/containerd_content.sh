#!/usr/bin/env bash
# What containerd has pulled by itself is given to another node: no byte of a blob from the registry, no second copy on
# the first node's disk; it is there again after a restart, and gone when containerd takes it away.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$e2e_dir/lib_images.sh"
source "$e2e_dir/lib_containerd.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_tls.sh"

export BACKEND=off
mirror=127.0.0.1:$(free_port)
content=$work/containerd/io.containerd.content.v1.content
registry_access_log=true
import=('store:' '  importContainerd: true' "  containerdContent: \"$content\"")

files_of_content() { find "$content/blobs/sha256" -type f 2>/dev/null | wc -l; }
taken() { echo $(($(metric sluice_content_imports_total in_place) + $(metric sluice_content_imports_total reflinked))); }
all_is_taken() { (($(taken) == $(files_of_content) && $(taken) > 0)); }
known() { sluice --output json blob ls | jq '.blobs | length'; }
knows_none() { (($(known) == 0)); }
blobs_asked() { grep -c '"GET /v2/[^ ]*/blobs/' "$work/registry.log" || true; }
knows_other() {
  sluice --output json peers |
    jq -e '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == 1' >"$work/peers"
}
# member N [YAML LINE...]
member() {
  use_node "$1"
  start_node "$(cluster_config "$1" 2 "name: node-$1" 'refresh: 500ms')" "$(tls_config "$1")" "${@:2}"
}
mirror_gives() { curl -fsS "http://$mirror/v2/app/$1?ns=$registry"; }

mkdir "$work/tree" "$work/hosts"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 12000000 --files 40
tar --numeric-owner -C "$work/tree" -czf "$work/tree.gz" .
tls_authority cluster
for i in 1 2; do
  tls_node cluster "$i"
done
start_registry
push_ordinary app "$work/tree.gz"

note "a node that starts before containerd says that there is nothing yet"
member 1 "${import[@]}"
wait_until grep -q 'store.importContainerd: .*not there' "$node_log" || fail "it does not say so"
start_containerd
pull "$registry/app:1"
wait_until all_is_taken || fail "$(taken) of $(files_of_content) files are taken in"
(($(metric sluice_origin_bytes_total) == 0)) || fail "the registry was asked for what is here"
if (($(metric sluice_content_imports_total in_place) > 0)); then
  [[ -z $(find "$data_dir/blobs" -type f) ]] || fail "there is a second copy: $(ls -l "$data_dir/blobs")"
fi
[[ -z $(find "$content" -type f -links +1) ]] || fail "a file of containerd's is linked to"

note "a second node gets it all by the first: the registry gives no byte of a blob"
member 2 'mirror:' "  listen: \"$mirror\""
for i in 1 2; do
  use_node "$i"
  wait_until knows_other || fail "node $i does not know the other: $(sluice peers)"
done
before=$(blobs_asked)
layer=$(manifest app | jq -r '.layers[0].digest')
image_config=$(manifest app | jq -r .config.digest)
for digest in "$image_config" "$layer"; do
  [[ sha256:$(mirror_gives "blobs/$digest" | sha256sum | cut -d' ' -f1) == "$digest" ]] || fail "other bytes of $digest"
done
(($(metric sluice_peer_received_bytes_total 'lane="express"') >= $(stat -c %s "$work/tree.gz"))) || fail "it came from elsewhere"
for i in 1 2; do
  use_node "$i"
  (($(metric sluice_origin_blob_bytes_total) == 0)) || fail "node $i asked the registry for bytes of blobs"
done
[[ $(blobs_asked) == "$before" ]] || fail "the registry was asked for blobs"

note "it is found again at start, and not read again"
use_node 1
here=$(known)
stop_node
restart_node
[[ $(known) == "$here" ]] || fail "$(known) of $here blobs are known after a restart"
(($(taken) == 0)) || fail "what was known is taken in again"

note "doctor and configure say what discard_unpacked_layers means"
printf '[plugins."io.containerd.grpc.v1.cri".containerd]\n  discard_unpacked_layers = true\n' >"$work/discards.toml"
sluice --output json doctor --config "$config" --containerd-config "$work/discards.toml" >"$work/doctor.json" || true
[[ $(jq -c '[.containerd[].holds]' "$work/doctor.json") == '[true,false]' ]] || fail "doctor: $(<"$work/doctor.json")"
jq -r '.containerd[1].remedy' "$work/doctor.json" | grep -q 'discard_unpacked_layers = false' || fail "doctor has no remedy"
sluice configure containerd --containerd-config "$work/discards.toml" --config-path "$work/certs" >"$work/output" 2>&1
grep -q 'discard_unpacked_layers.*none to give' "$work/output" || fail "configure says: $(<"$work/output")"

note "what is not what its name says is named and not given, and what containerd takes away is gone"
wrong=$(printf '0%.0s' {1..64})
echo wrong >"$content/blobs/sha256/$wrong"
wait_until grep -q "not taken in: .*$wrong has not the bytes" "$node_log" || fail "it does not say so"
(($(metric sluice_content_imports_total wrong) == 1)) || fail "it is not counted"
forget_images
wait_until knows_none || fail "still known: $(sluice blob ls)"
! grep ALARM "$node_log" || fail "that is no alarm"
