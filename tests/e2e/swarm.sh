#!/usr/bin/env bash
# Three nodes and no registry: the second starts the image from the first, the third fills its blob of 128 MiB by the
# swarm, and a plain BitTorrent client, at a member's address, downloads the blob from a node. BACKEND chooses the
# kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

readonly members=4  # the last is no node but the client
mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 134000000 --files 150
start_registry
use_node 1
write_config
push_tree "$work/tree" app
image=$(image_by_digest app)
blob=$(data_blob_of app)
size=$(data_size_of app)
((size >= 128 << 20)) || fail "the blob has only $size bytes"

blob_is_whole() { sluice --output json blob stat "$blob" | jq -e '.present_bytes == .size_bytes' >/dev/null; }
start_member 1 $members 'swarm: true'
sluice mount --fill "$image" "$work/node1/mnt" >&2
wait_until blob_is_whole || fail "node 1 does not fill the image"
stop_registry

note "the second starts from the first"
start_member 2 $members 'swarm: true'
sluice mount "$image" "$work/node2/mnt" >&2
head -c 4096 "$work/node2/mnt/usr/lib1/part1/file1" | cmp - <(head -c 4096 "$work/tree/usr/lib1/part1/file1") ||
  fail "wrong bytes"

note "the third fills the blob by the swarm"
start_member 3 $members 'swarm: true'
sluice mount --fill "$image" "$work/node3/mnt" >&2
wait_until blob_is_whole || fail "node 3 does not fill the image: $(sluice blob stat "$blob")"
swarm=$(metric sluice_peer_received_bytes_total 'lane="swarm"')
express=$(metric sluice_peer_received_bytes_total 'lane="express"')
((swarm >= size * 9 / 10)) || fail "only $swarm of $size bytes came by the swarm, $express by express"
(($(metric sluice_origin_bytes_total) == 0)) || fail "node 3 got bytes from a registry that is stopped"
(($(metric sluice_chunk_verify_failures_total) == 0)) || fail "chunks failed verification"
sluice blob verify "$blob" >&2 || fail "the blob does not verify"
[[ sha256:$(sha256sum "$data_dir/blobs/"*"${blob#sha256:}"* | cut -d' ' -f1) == "$blob" ]] || fail "the file differs"
[[ $(checksum_of "$work/node3/mnt") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs"

# Debian's python3-libtorrent belongs to Debian's Python.
note "a plain client downloads it from the third"
sluice blob recipe "$blob" -o "$work/blob.torrent"
timeout 120 /usr/bin/python3 "$e2e_dir/torrent_client.py" --torrent "$work/blob.torrent" --peer "127.0.0.3:$swarm_port" \
  --address "127.0.0.$members" --folder "$work/client" >&2 || fail "the client does not get the blob"
[[ sha256:$(sha256sum "$work/client/${blob#sha256:}" | cut -d' ' -f1) == "$blob" ]] || fail "the client got other bytes"

note "an address that is no member's gets nothing"
! timeout 60 /usr/bin/python3 "$e2e_dir/torrent_client.py" --torrent "$work/blob.torrent" --peer "127.0.0.3:$swarm_port" \
  --address 127.0.0.9 --folder "$work/stranger" --seconds 5 >&2 || fail "a stranger was served"
echo "$swarm of $size bytes by the swarm, $express by express"
