#!/usr/bin/env bash
# Members that lie, each with a share of the homes: one that ends its answers in the midst of their bytes, tells another
# blob's length, sends wrong bytes as verified, or says that it had them from another; and a good node whose disk has
# changed under it. Readers get the right bytes, the registry gives little more than one copy, and who lies is blamed, and
# nobody else.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"

# The last of all is none of ours.
readonly nodes=5 liar=6 spoilt=5 image_bytes=6000000
readonly readers=(1 2 3)
export READ_DEADLINE=20s
declare -A images=()

net_up
net_add origin 50mbit
for ((node = 1; node <= liar; ++node)); do net_add "$node" 50mbit; done
start_origin
push() {
  mkdir "$work/tree-$1"
  head -c $image_bytes /dev/urandom >"$work/tree-$1/file"
  push_at_origin "$work/tree-$1" "$1"
  images[$1]=$(image_by_digest "$1")
}
tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }

for name in short length disk verified banned passed-on; do push $name; done
lie() { echo "$1" >"$work/way"; }
lie short
: >"$work/liar"
exec_at $liar python3 "$repository_root/tests/net/lying_member.py" node-$liar "$(peer_address $liar)" "$work/way" \
  >>"$work/liar" 2>"$work/liar.log" &
disown
wait_until grep -q ready "$work/liar" || fail "the liar does not listen: $(<"$work/liar.log")"

knows_others() { (($(metric sluice_members 'state="alive"') == liar - 1)); }
knows_all() {
  local node
  for node in "$@"; do
    use_node "$node"
    wait_until knows_others || fail "node $node does not know the others: $(sluice peers)"
  done
}
for ((node = 1; node <= nodes; ++node)); do
  BACKEND=$( ((node < 4)) && echo fuse || echo off) start_member "$node" $liar "name: node-$node" 'refresh: 500ms'
done
knows_all 1 2 3 4 5
# They forget whom they have banned.
restart_readers() {
  local node
  for node in "${readers[@]}"; do
    use_node "$node"
    stop_node
    restart_node
  done
  knows_all "${readers[@]}"
}

asked_of_liar() { grep -c "$1" "$work/liar" || true; }
# all_read NAME: all readers mount that image and read all of it, at once; sets copies, of what left the registry in
# thousandths of the image.
all_read() {
  local name=$1 node point sent
  local -A pids=()
  sent=$(net_sent origin)
  for node in "${readers[@]}"; do
    point=$work/node$node/mnt
    tool_of "$node" mount "${images[$name]}" "$point" >&2
    timeout 100 python3 "$e2e_dir/compare_reads.py" "$work/tree-$name" "$point" >"$work/read-$node.log" 2>&1 &
    pids[$node]=$!
  done
  for node in "${readers[@]}"; do
    wait "${pids[$node]}" || fail "$name: node $node: $(tail -n 3 "$work/read-$node.log")"
  done
  copies=$((($(net_sent origin) - sent) * 1000 / image_bytes))
  echo "$name: $copies thousandths of the image left the registry"
  for node in "${readers[@]}"; do tool_of "$node" umount "$work/node$node/mnt" >&2; done
}
# costs_at_most THOUSANDTHS: it is more than what was found, and less than if it went on. The liar is the home of a sixth,
# at most of a quarter: where each reader had to get that for itself it would be one and a half copies.
costs_at_most() { ((copies <= $1)) || fail "$copies thousandths of the image left the registry, at most $1 should"; }

# of_peers READER FILTER: what jq makes of how it sees the others, who are in $at by name.
of_peers() {
  tool_of "$1" --output json peers | jq -e "(.peers | map({key: .name, value: .}) | from_entries) as \$at | $2" >"$work/peers" ||
    fail "node $1 sees the others otherwise than as $2: $(tool_of "$1" peers)"
}
bans() { use_node "$1" && metric sluice_peer_bans_total "${2-}"; }
# No wrong byte, and so nobody is banned; who fails is skipped, and the others are not.
only_fails() {
  local node
  for node in "${readers[@]}"; do
    of_peers "$node" "all(.peers[]; .wrong_answers == 0) and \$at[\"$1\"].failures > 0"
    (($(bans "$node") == 0)) || fail "node $node has banned somebody for what was not wrong"
  done
}
# only_liar NAME: each reader has banned that one, for what it sent as verified, and blames nobody else.
only_liar() {
  local node
  for node in "${readers[@]}"; do
    of_peers "$node" "[.peers[] | select(.wrong_answers > 0) | .name] == [\"$1\"] and
      (\$at[\"$1\"] | .skipped_for_seconds > 500 and (.blame | contains(\"as verified\")))"
    (($(bans "$node") == 1)) || fail "node $node has banned $(bans "$node") members, not the liar alone"
    (($(bans "$node" 'reason="verified"') == 1)) || fail "node $node has banned it for something else"
  done
}

note "it ends each answer in the midst of the bytes"
all_read short
(($(asked_of_liar short) > 0)) || fail "it was asked for nothing"
only_fails node-$liar
costs_at_most 1500

note "it gives what is of another length"
lie length
wait_for_liar() { tool_of 1 --output json peers | jq -e ".peers[] | select(.name == \"node-$liar\") | .skipped_for_seconds == null" >"$work/peers"; }
wait_until wait_for_liar || fail "who fails is left alone for ever: $(tool_of 1 peers)"
all_read length
(($(asked_of_liar length) > 0)) || fail "it was asked for nothing"
only_fails node-$liar
costs_at_most 1500

note "a good node's disk has other bytes than it wrote"
fill() {
  timeout 100 "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" prefetch submit "${images[$2]}" >"$work/fill-$1.log" 2>&1 ||
    fail "node $1 can't fetch $2: $(tail -n 2 "$work/fill-$1.log")"
}
blob=$(data_blob_of disk)
fill $spoilt disk
fill 4 disk
# What is complete is held against its digest once; the disk must not change before that.
tool_of $spoilt blob verify "$blob" >&2
spoil() {
  local file
  for file in "$work/node$spoilt/data/blobs/"*"${blob#sha256:}"*; do
    head -c "$(stat -c %s "$file")" /dev/urandom | dd of="$file" conv=notrunc bs=1M status=none
  done
}
spoil
# As homes they may have got parts of it for those who fetched it.
for node in "${readers[@]}"; do tool_of "$node" blob evict "$blob" >&2; done
all_read disk
only_liar node-$spoilt
costs_at_most 1000

note "it sends wrong bytes as verified"
restart_readers
lie verified
all_read verified
(($(asked_of_liar verified) > 0)) || fail "it was asked for nothing"
only_liar node-$liar
costs_at_most 1600

note "who is banned is asked for nothing, and costs nothing"
: >"$work/liar"
all_read banned
for node in "${readers[@]}"; do
  (($(asked_of_liar "$(net_address "$node")") == 0)) || fail "node $node asks whom it has banned"
done
only_liar node-$liar
costs_at_most 1100

# Each time that it is asked again what it sends has to come from the registry, for each reader by itself.
note "where a quarter is banned another liar is blamed and left alone for a while, and no byte of it is taken"
for node in "${readers[@]}"; do tool_of "$node" blob evict "$blob" >&2; done
all_read disk
for node in "${readers[@]}"; do
  of_peers "$node" "[.peers[] | select(.wrong_answers > 0) | .name] - [\"node-$liar\", \"node-$spoilt\"] == []"
  (($(bans "$node") == 1)) || fail "node $node has banned more than a quarter of the members"
done
costs_at_most 2500

# Without certificates nobody can tell that the other has not: that one is banned, and the liar asked again.
note "it says that it had the wrong bytes from another, who has never seen them"
restart_readers
lie node-4
all_read passed-on
for node in "${readers[@]}"; do
  (($(bans "$node") <= 1)) || fail "node $node has banned more than a quarter of the members"
done
costs_at_most 2300
