#!/usr/bin/env bash
# Eight nodes mount one tag at once, each cold: the registry is asked for manifests, referrers and bootstrap as if one node
# did. And again when some of their homes are dead, or stopped. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

readonly nodes=8
mkdir "$work/tree" "$work/other"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 4000000 --files 40
python3 "$e2e_dir/make_tree.py" "$work/other" --bytes 4000000 --files 40 --seed 7
start_registry
use_node 1
write_config
push_tree "$work/tree" app
push_tree "$work/other" other

# requests PATTERN: those that the registry answered, of whatever method.
requests() { grep -c "response completed.*http.request.uri=\"\\?[^ \"]*$1" "$work/registry.log" || true; }
tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }
# mount_at_once TREE IMAGE NODE...: all of these mount it at once, and read all of it; sets asked to the requests for
# manifests, lists of referrers among them, and asked_bootstrap to those for its bootstrap.
asked=
asked_bootstrap=
mount_at_once() {
  local tree=$1 image=$2 node name bootstrap
  local -A pids=()
  name=${image#*/}
  bootstrap=/blobs/$(manifest "${name%:*}" | jq -r '.layers[-1].digest')
  asked=$(requests /manifests/)
  asked_bootstrap=$(requests "$bootstrap")
  for node in "${@:3}"; do
    tool_of "$node" mount "$image" "$work/node$node/mnt" >"$work/mount$node" 2>&1 &
    pids[$node]=$!
  done
  for node in "${@:3}"; do wait "${pids[$node]}" || fail "node $node can't mount $image: $(<"$work/mount$node")"; done
  asked=$(($(requests /manifests/) - asked))
  asked_bootstrap=$(($(requests "$bootstrap") - asked_bootstrap))
  for node in "${@:3}"; do
    reads_right "$tree" "$work/node$node/mnt" || fail "node $node can't read $image"
    tool_of "$node" umount "$work/node$node/mnt" >&2
  done
}
knows_all() {
  sluice --output json peers |
    jq -e --argjson others $((nodes - 1)) '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == $others' \
      >"$work/peers"
}

for ((i = 1; i <= nodes; ++i)); do start_member "$i" "$nodes" 'refresh: 500ms' 'insecurePeers: true'; done
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the others: $(sluice peers)"
done

note "all mount one tag at once"
mount_at_once "$work/tree" "$registry/app:1" 1 2 3 4 5 6 7 8
echo "$nodes nodes: $asked manifest requests, $asked_bootstrap for the bootstrap"
((asked_bootstrap == 1)) || fail "$asked_bootstrap requests for the bootstrap of $nodes nodes"
((asked <= 3)) || fail "$asked manifest requests of $nodes nodes: $(grep '/manifests/' "$work/registry.log" | tail -n 20)"

note "and another when one of them is dead and one stopped: the next home asks"
use_node 8
stop_node KILL
use_node 7
kill -STOP "$node_pid"
mount_at_once "$work/other" "$registry/other:1" 1 2 3 4 5 6
kill -CONT "$node_pid"
echo "6 nodes of $nodes: $asked manifest requests, $asked_bootstrap for the bootstrap"
((asked_bootstrap <= 2)) || fail "$asked_bootstrap requests for the bootstrap of 6 nodes, though homes live"
((asked <= 6)) || fail "$asked manifest requests of 6 nodes, though homes live"
