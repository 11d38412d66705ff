#!/usr/bin/env bash
# Eight nodes in two zones want one image at once: one copy of it crosses between the zones, counted on the wire, and one
# leaves the registry. Without zones more copies do, which shows that the count can fail. Then nodes that have the image
# not asked for are asked by their zone, and one of each zone stops in the midst of it.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"

readonly nodes=8 image_bytes=$((16 << 20))
export BACKEND=off
mapfile -t everyone < <(seq $nodes)
net_up
net_add origin 100mbit
for node in "${everyone[@]}"; do net_add "$node" 100mbit; done
start_origin

zone_of() { if (($1 % 2)); then echo east; else echo west; fi; }
tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }

# push NAME: an image of one blob that can't be compressed; sets image and blob_bytes.
push() {
  mkdir "$work/tree-$1"
  head -c $image_bytes /dev/urandom >"$work/tree-$1/file"
  push_at_origin "$work/tree-$1" "$1"
  image=$(image_by_digest "$1")
  blob=$(data_blob_of "$1")
  blob_bytes=$(data_size_of "$1")
}

# count_crossing: from now on what each node's peers' port sends to nodes of the other zone is counted where it comes in.
count_crossing() {
  local node other
  for node in "${everyone[@]}"; do
    at "$node" iptables -F
    for other in "${everyone[@]}"; do
      [[ $(zone_of "$node") != $(zone_of "$other") ]] || continue
      at "$node" iptables -A INPUT -s "$(net_address "$other")" -p tcp --sport "$peer_port"
    done
  done
}
# crossed: bytes of TCP payload since then: each packet has one header of IP, and of TCP with a timestamp.
crossed() {
  for node in "${everyone[@]}"; do at "$node" iptables -vnxL INPUT; done |
    awk '$1 ~ /^[0-9]+$/ && $2 ~ /^[0-9]+$/ { sum += $2 - 52 * $1 } END { printf "%d\n", sum }'
}
counted_crossing() {
  for node in "${everyone[@]}"; do
    use_node "$node"
    metric sluice_cross_zone_bytes_total
  done | awk '{ sum += $1 } END { printf "%d\n", sum }'
}

knows_others() { (($(metric sluice_members 'state="alive"') + $(metric sluice_members 'state="not-asked"') >= nodes - 1)); }
# start_all [zones]: all of them, with empty stores.
start_all() {
  local node
  for node in "${everyone[@]}"; do
    rm -rf "$work/node$node/data"
    start_member "$node" $nodes 'refresh: 500ms' ${1:+"zone: $(zone_of "$node")"}
  done
  for node in "${everyone[@]}"; do
    use_node "$node"
    wait_until knows_others || fail "node $node does not know the others: $(sluice peers)"
  done
}

# want NODE...: these want the whole image at once, and get it.
want() {
  local node
  local -A pulls=()
  for node in "$@"; do
    timeout 100 "$SLUICE_BIN/sluice" --socket "$work/node$node/run/api.sock" prefetch submit "$image" \
      >"$work/pull-$node.log" 2>&1 &
    pulls[$node]=$!
  done
  for node in "$@"; do
    wait "${pulls[$node]}" || fail "node $node does not get the image: $(tail -n 2 "$work/pull-$node.log")"
  done
}
# pull NODE...: the same, of an image that push made.
pull() {
  local node
  want "$@"
  for node in "$@"; do
    [[ $(sha256sum "$work/node$node/data/blobs/"*"${blob#sha256:}"* | cut -d' ' -f1) == "${blob#sha256:}" ]] ||
      fail "node $node has other bytes than the registry"
  done
}
# share_list NAME: all want an image of many names and nothing else; sets crossed and origin, of the size of its list.
share_list() {
  local first_line blob_bytes
  mkdir "$work/tree-$1"
  python3 -c 'import os, sys
for _ in range(20000): open(f"{sys.argv[1]}/{os.urandom(20).hex()}", "w").close()' "$work/tree-$1"
  push_at_origin "$work/tree-$1" "$1"
  image=$(image_by_digest "$1")
  blob_bytes=$(manifest "$1" | jq '.layers[-1].size')
  count_crossing
  first_line=$(($(origin_log_lines) + 1))
  want "${everyone[@]}"
  crossed=$(ratio "$(crossed)")
  origin=$(ratio "$(origin_requests '^GET [^ ]*/blobs/' "$first_line" | awk '{ sum += $4 } END { print sum + 0 }')")
}
ratio() { awk -v a="$1" -v b="$blob_bytes" 'BEGIN { printf "%.3f\n", a / b }'; }
is_at_most() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }

note "without zones"
push plain
start_all
count_crossing
pull "${everyone[@]}"
without=$(ratio "$(crossed)")
# By chance as little of a list may cross as with zones, once.
for list in plainly plainly-2 plainly-3; do
  share_list $list
  ! is_at_most 1.5 "$crossed" || break
done
crossed_plain=$crossed
nodes_down

note "with zones"
push zoned
start_all zones
count_crossing
first_line=$(($(origin_log_lines) + 1))
pull "${everyone[@]}"
with=$(ratio "$(crossed)")
told=$(ratio "$(counted_crossing)")
origin=$(ratio "$(origin_requests '^GET [^ ]*/blobs/' "$first_line" | awk '{ sum += $4 } END { print sum + 0 }')")
echo "of the image's size crossed: $with with zones, $told by their own count, $without without; $origin from the registry"
is_at_most "$with" 1.05 || fail "$with copies crossed between the zones"
is_at_most "$told" "$with" || fail "the nodes count more than crossed"
is_at_most 0.95 "$told" || fail "the nodes count less than a copy"
is_at_most "$origin" 1.05 || fail "$origin copies left the registry"
is_at_most 1.5 "$without" || fail "without zones no more crosses: this test can't fail"

note "a list of many files, which each needs before it can mount"
share_list there
echo "of the list's size crossed: $crossed with zones, $crossed_plain without; $origin from the registry"
is_at_most "$crossed" 1.15 || fail "$crossed copies of the list crossed between the zones"
is_at_most "$origin" 1.05 || fail "$origin copies of the list left the registry"
is_at_most 1.5 "$crossed_plain" || fail "without zones no more of the list crosses: this test can't fail"

note "two of each zone want it, and the others are asked by their zones"
push some
count_crossing
pull 1 2 3 4
some=$(ratio "$(crossed)")
echo "of the image's size crossed: $some"
is_at_most "$some" 1.1 || fail "$some copies crossed between the zones for two nodes of each"

note "one of each zone stops"
push stopped
count_crossing
use_node 7 && kill -STOP "$node_pid"
use_node 8 && kill -STOP "$node_pid"
pull 1 2 3 4 5 6
for node in 7 8; do use_node "$node" && kill -CONT "$node_pid"; done
echo "of the image's size crossed: $(ratio "$(crossed)")"
