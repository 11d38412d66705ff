#!/usr/bin/env bash
# A node is killed in the middle of a fill by the swarm: what it had claimed is not fetched again. Then the seed's blob
# is evicted under a torrent. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 200000000 --files 100
start_registry
use_node 1
write_config
push_tree "$work/tree" app
image=$(image_by_digest app)
blob=$(data_blob_of app)
size=$(data_size_of app)

present() { sluice --output json blob stat "$blob" | jq .present_bytes; }
blob_is_whole() { (($(present) == size)); }
start_member 1 2 'swarm: true'
sluice mount --fill "$image" "$work/node1/mnt" >&2
wait_until blob_is_whole || fail "node 1 does not fill the image"
stop_registry

note "SIGKILL in the middle of the fill, and the daemon starts again"
# Claims are made often, so that some are on disk early in a fill that takes a second.
FILL=true start_member 2 2 'swarm: true'
printf 'store:\n  syncInterval: 20ms\n' >>"$config"
stop_node
restart_node
sluice mount "$image" "$work/node2/mnt" >&2
well_begun() { (($(metric sluice_peer_received_bytes_total 'lane="swarm"') > size / 10)); }
wait_until well_begun || fail "node 2 gets nothing by the swarm"
stop_node KILL
: >"$node_log"
restart_node
kept=$(sed -n 's/.* store .*, \([0-9]*\) chunks present$/\1/p' "$node_log")
wait_until blob_is_whole || fail "node 2 does not go on with the fill"
received=$(metric sluice_peer_received_bytes_total)
chunk=$(sluice --output json blob stat "$blob" | jq .chunk_size_bytes)
((kept * chunk > size / 20)) || fail "only $kept chunks were claimed when the node was killed"
((kept * chunk < size)) || fail "the fill was over before the node was killed"
# A chunk may come by both lanes now and then.
((received <= size - kept * chunk + size / 50)) || fail "$received bytes fetched anew though $kept chunks of $size bytes were here"
[[ $(checksum_of "$work/node2/mnt") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs"

note "the first node's blob is evicted while it is seeded: a fill gets the bytes elsewhere, or an error, and no zeros"
use_node 1
sluice umount "$work/node1/mnt" >&2
# Whoever was served a moment ago may hold it still.
evicted() { sluice blob evict "$blob" >"$work/evict" 2>&1; }
wait_until evicted || fail "node 1 does not evict the blob: $(<"$work/evict")"
! sluice blob stat "$blob" >"$work/stat" 2>&1 || fail "it is still here: $(<"$work/stat")"
sluice mount --fill "$image" "$work/node1/mnt" >&2
wait_until blob_is_whole || fail "node 1 does not get its blob back from node 2"
[[ $(checksum_of "$work/node1/mnt") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs"
echo "$kept chunks were kept, $received bytes fetched after the restart"
