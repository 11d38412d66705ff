#!/usr/bin/env bash
# Two hosts, each with a containerd and a node that is its mirror. What the first has pulled the second gets by the nodes:
# no byte of a blob from the registry; by digest though the registry has stopped; and from the registry itself while its
# node has.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$e2e_dir/lib_images.sh"
source "$e2e_dir/lib_containerd.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_tls.sh"

export BACKEND=off
registry_access_log=true
seed=0 places=0
mirrors=("" "127.0.0.1:$(free_port)" "127.0.0.1:$(free_port)")

# on_host N: its node and its containerd.
on_host() { use_node "$1" && use_containerd "$1"; }
# node N: starts the one of that host.
node() {
  on_host "$1"
  start_node "$(cluster_config "$1" 2 "name: node-$1" 'refresh: 500ms')" "$(tls_config "$1")" \
    'mirror:' "  listen: \"${mirrors[$1]}\""
}
knows_other() {
  sluice --output json peers |
    jq -e '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == 1' >"$work/peers"
}
origin_blob_bytes() { metric sluice_origin_blob_bytes_total; }
# asked_by AGENT: how often the registry was asked for blobs by whom.
asked_by() { grep -c "\"GET /v2/[^ ]*/blobs/.*\"$1" "$work/registry.log" || true; }
# has_tree TREE REFERENCE: the containerd has unpacked what was pushed.
has_tree() {
  # containerd gives what it once mounted at a place there again.
  local place=$work/unpacked$((++places))
  mkdir "$place"
  ctr images mount --snapshotter native "$2" "$place" >&2
  diff -r --no-dereference "$work/$1" "$place" >&2 || fail "containerd has another tree of $2"
  umount "$place"
}
# push NAME: three layers that no other image has.
push() {
  local part layers=()
  for part in a b c; do
    mkdir -p "$work/$1/$part"
    python3 "$e2e_dir/make_tree.py" "$work/$1/$part" --bytes 6000000 --files 20 --seed "$((++seed))"
    layers+=("$work/$1-$part.gz")
    tar --numeric-owner -C "$work/$1" -czf "${layers[-1]}" "$part"
  done
  push_ordinary "$1" "${layers[@]}"
}

tls_authority cluster
for i in 1 2; do
  tls_node cluster "$i"
done
start_registry
push app
push late
late=$(image_by_digest late)
for i in 1 2; do
  node "$i"
  sluice configure containerd --mirror "http://${mirrors[i]}" --config-path "$hosts_dir" --registry "$registry" >&2
  start_containerd
done
for i in 1 2; do
  on_host "$i"
  wait_until knows_other || fail "node $i does not know the other: $(<"$work/peers")"
done

note "the first host's pull is the only one that the registry serves"
on_host 1
pull "$registry/app:1"
has_tree app "$registry/app:1"
on_host 2
before=$(origin_blob_bytes)
on_host 1
before_first=$(origin_blob_bytes)
((before + before_first > 0)) || fail "the registry gave nothing, and the image is there"
on_host 2
pull "$registry/app:1"
has_tree app "$registry/app:1"
[[ $(origin_blob_bytes) == "$before" ]] || fail "node 2 asked the registry for $(($(origin_blob_bytes) - before)) bytes of blobs"
(($(metric sluice_peer_received_bytes_total) > 0)) || fail "node 2 has nothing from node 1"
on_host 1
[[ $(origin_blob_bytes) == "$before_first" ]] || fail "node 1 asked the registry again"
(($(asked_by containerd) == 0)) || fail "a containerd asked the registry for blobs"

note "with the registry stopped the second host pulls by digest what the first has"
pull "$late"
stop_registry
on_host 2
pull "$late"
has_tree late "$late"

note "while its node has stopped, a host's containerd asks the registry"
start_registry "$registry"
stop_node
forget_images
pull "$registry/app:1"
has_tree app "$registry/app:1"
(($(asked_by containerd) > 0)) || fail "the registry was not asked by containerd"
