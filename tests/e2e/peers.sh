#!/usr/bin/env bash
# A second node starts an image from the first while the registry is stopped, named by digest: manifest, recipe,
# bootstrap and chunks come from the member. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 32000000 --files 100
start_registry
use_node 1
write_config
push_tree "$work/tree" app
image=$(image_by_digest app)
blob=$(data_blob_of app)

export READ_DEADLINE=5s
start_member 1 2
sluice mount --fill "$image" "$work/node1/mnt" >&2
blob_complete() { sluice --output json blob stat "$blob" | jq -e '.present_bytes == .size_bytes' >/dev/null; }
wait_until blob_complete || fail "node 1 does not fill the image"
first=$(metric sluice_origin_bytes_total)
((first > 0)) || fail "node 1 got nothing from the registry"

note "with the registry stopped a second node mounts the image and reads all of it"
stop_registry
start_member 2 2
sluice mount "$image" "$work/node2/mnt" >&2
reads_right "$work/tree" "$work/node2/mnt" || fail "node 2 can't read the image"
(($(metric sluice_origin_bytes_total) == 0)) || fail "node 2 got bytes from a registry that is stopped"
received=$(metric sluice_peer_received_bytes_total 'lane="express"')
served=$(metric sluice_read_bytes_total 'source="peer"')
((received > 0 && served > 0)) || fail "node 2 counts $received bytes received and $served served from peers"
sluice --output json status | jq -e '.peers.members == 1 and .peers.express.received_bytes > 0' >"$work/status" ||
  fail "sluice status does not show the peers: $(sluice status)"
# The cold start may take its 3 s.
shows_node_1() {
  sluice --output json peers | jq -e --arg address "$(peer_address 1)" '
  .cluster == {configured: true, cut_off: false, cold_start: false} and .self.homes_share + .peers[0].homes_share == 1 and
  (.peers | length == 1) and (.peers[0] | .state == "alive" and .addresses == [$address] and .recent_bytes > 0 and
  .requests > 0 and .skipped_for_seconds == null)' >"$work/peers"
}
wait_until shows_node_1 || fail "sluice peers does not show node 1: $(sluice peers)"
# Whether images can be mounted with it is not what is asked here.
doctor() { sluice --output json doctor --config "$config" || true; }
doctor | jq -e --arg address "$(peer_address 2)" '
  .peers | map(.holds) == [true, true] and .[1].name == "others reach this node at \($address)"' >"$work/doctor" ||
  fail "sluice doctor does not say that node 1 reaches node 2: $(doctor)"
use_node 1
(($(metric sluice_peer_sent_bytes_total 'lane="express"') >= received)) || fail "node 1 counts less sent than node 2 got"

note "a member that is gone costs readers an error within the deadline, and no wrong byte"
use_node 2
sluice umount "$work/node2/mnt" >&2
sluice blob evict "$blob" >&2
use_node 1
stop_node
use_node 2
sluice mount "$image" "$work/node2/mnt" >&2
drop_page_cache
status=0
timeout 100 head -c 1 "$work/node2/mnt/usr/lib1/part1/file1" >"$work/head" 2>&1 || status=$?
((status == 1)) || fail "reading without registry and members ended with $status: $(<"$work/head")"

sluice --output json peers | jq -e '.peers[0].failures > 0' >"$work/peers" ||
  fail "sluice peers does not say that node 1 failed: $(sluice peers)"

note "and right bytes again when it is back"
use_node 1
restart_node
use_node 2
wait_until reads_right "$work/tree" "$work/node2/mnt" || fail "node 2 can't read the image after node 1 came back"
echo "$received bytes from the member, none from the registry"
