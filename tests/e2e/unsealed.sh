#!/usr/bin/env bash
# An image whose manifest tells no root: nodes that believe each other take its chunks from each other all the same, and
# prove them when the blob is whole; one that believes the registry alone does not. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
head -c 6000000 /dev/urandom >"$work/tree/file"  # it can't be compressed: a compressed blob must tell its root
start_registry
use_node 1
write_config
push_tree "$work/tree" app
manifest app | jq -c 'del(.layers[].annotations["io.sluice.blob.root"])' | put_manifest app 1
blob=$(data_blob_of app)
size=$(data_size_of app)
peers=(2 3)

note "a node is not to believe others without TLS, but where that is said"
use_node 1
write_config "$(cluster_config 1 4)" $'integrity:\n  unsealed: cluster'
launch_node
! node_is_ready || fail "it started"
grep -q 'integrity.unsealed: cluster.*insecurePeers' "$node_log" || fail "it does not say why: $(tail -n 3 "$node_log")"

for node in 1 2 3; do
  use_node $node
  start_node "$(cluster_config $node 4 'refresh: 300ms' 'insecurePeers: true')"
done
use_node 4
start_node "$(cluster_config 4 4 'refresh: 300ms' 'insecurePeers: true')" $'integrity:\n  unsealed: origin'
knows_others() { (($(metric sluice_members 'state="alive"') == 3)); }
for node in 1 2 3 4; do
  use_node $node
  wait_until knows_others || fail "node $node does not know the others"
done

# A recipe is made of a blob whose digest holds.
settled() { sluice --output json blob stat "$blob" | jq -e '.recipe_bound and .unverified_chunks == 0' >/dev/null; }
from_registry() {
  local node sum=0
  for node in 1 2 3; do
    use_node $node
    sum=$((sum + $(metric sluice_origin_blob_bytes_total)))
  done
  echo $sum
}

note "the first of those that believe each other reads it; it is proven when it is whole"
use_node 1
mount_image app "$work/node1/mnt"
cmp "$work/tree/file" "$work/node1/mnt/file" || fail "node 1 can't read the image"
wait_until settled || fail "node 1 did not hold the whole blob against its digest"
once=$(from_registry)

note "the others get it from the first, unproven, and prove it then"
for node in "${peers[@]}"; do
  use_node "$node"
  mount_image app "$work/node$node/mnt"
  cmp "$work/tree/file" "$work/node$node/mnt/file" || fail "node $node can't read the image"
  wait_until settled || fail "node $node did not hold the whole blob against its digest"
done
more=$(($(from_registry) - once))
((more < size / 4)) || fail "$more bytes came from the registry again"

note "one that believes the registry alone gets all of it there"
use_node 4
mount_image app "$work/node4/mnt"
cmp "$work/tree/file" "$work/node4/mnt/file" || fail "node 4 can't read the image"
(($(metric sluice_origin_blob_bytes_total) >= size)) || fail "not all of it came from the registry"
