#!/usr/bin/env bash
# Fifty clients ask a node's peers' port for what it has, and take in one byte a second. Meanwhile two other nodes read
# from that node about as fast as without them; it answers whoever else asks, and needs next to no memory for them. They
# are cut off after a while, and what they asked for can be evicted then.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"

readonly nodes=3 clients=34 fill_clients=16 image_bytes=6000000
# The slowest with them, of the median without. It was 1.0 to 1.2 times, but up to 2.2 for who comes first for a chunk
# that they are being sent already as often as the node sends one at once: they count as stuck after 1.5 s, all at the
# same time, and an image takes 1.8 s. Who is waited for until it is cut off costs 30 s, which is 16 times.
readonly times_max=4
# A connection that has taken in nothing for so long is closed. Where all of the rest was in the kernel's buffers the
# answer is over, and so much later the connection is that has asked for nothing more.
readonly idle_seconds=30
readonly cut_off_seconds_max=$((3 * idle_seconds))
# Of the node, for all of them: what is sent from files needs none.
readonly memory_max=$((16 << 20))
export READ_DEADLINE=30s
declare -A images=()

net_up
net_add origin 400mbit
for ((node = 1; node <= nodes; ++node)); do net_add "$node" 400mbit; done
# Who asks from there is no member.
readonly outside=9
net_add $outside 50mbit
start_origin
names=(read-{1..7} fill-{1..7})
for name in "${names[@]}"; do
  mkdir "$work/tree-$name"
  head -c $image_bytes /dev/urandom >"$work/tree-$name/file"
  push_at_origin "$work/tree-$name" "$name"
  images[$name]=$(image_by_digest "$name")
done

tool_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }
milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }
BACKEND=off start_member 1 $nodes 'refresh: 500ms'
for node in 2 3; do BACKEND=fuse start_member $node $nodes 'refresh: 500ms'; done
knows_others() { (($(metric sluice_members 'state="alive"') == nodes - 1)); }
for node in 1 2 3; do
  use_node $node
  wait_until knows_others || fail "node $node does not know the others: $(sluice peers)"
done

fill() { timeout 100 "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" prefetch submit "${images[$2]}"; }
read_all() {
  timeout 100 "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" mount "${images[$2]}" "$work/node$1/mnt" &&
    timeout 100 python3 "$e2e_dir/compare_reads.py" "$work/tree-$2" "$work/node$1/mnt"
}
# cold fill|read_all NAME...: nodes 2 and 3 do that at once with each of these images, one after the other; prints the
# milliseconds of each, the least first.
cold() {
  local node began name times=()
  local -A pids=()
  for name in "${@:2}"; do
    # As homes they have got parts of it for node 1.
    for node in 2 3; do tool_of $node blob evict "$(data_blob_of "$name")" >&2; done
    began=$(milliseconds)
    for node in 2 3; do
      "$1" $node "$name" >"$work/$1-$node.log" 2>&1 &
      pids[$node]=$!
    done
    for node in 2 3; do wait "${pids[$node]}" || fail "node $node: $1 of $name fails: $(tail -n 3 "$work/$1-$node.log")"; done
    times+=($(($(milliseconds) - began)))
    [[ $1 == fill ]] || for node in 2 3; do tool_of $node umount "$work/node$node/mnt" >&2; done
  done
  echo "$1: ${times[*]} ms" >&2
  printf '%s\n' "${times[@]}" | sort -n
}
connected() { at 1 ss -Htn state established "sport = :$peer_port and dst $(net_address $outside)" | wc -l; }
resident() { use_node 1 && metric sluice_process_resident_bytes; }
sent() { use_node 1 && metric sluice_peer_sent_bytes_total; }
leases() { tool_of 1 --output json blob stat "$blob" | jq .lease_count; }

note "without them"
for name in "${names[@]}"; do fill 1 "$name" >"$work/fill.log" 2>&1 || fail "node 1 can't fetch $name: $(<"$work/fill.log")"; done
for node in 1 2 3; do net_rate $node 50mbit; done
read_before=$(cold read_all read-{4..6} | sed -n 2p)
fill_before=$(cold fill fill-{4..6} | sed -n 2p)
resident_before=$(resident)

note "with them"
blob=$(data_blob_of read-1)
size=$(data_size_of read-1)
chunk=$(manifest read-1 | jq -r '.layers[0].annotations["io.sluice.blob.chunk-size"]')
root=$(manifest read-1 | jq -r '.layers[0].annotations["io.sluice.blob.root"]')
# As it can't be compressed the registry has it plain.
claim="size=$size; chunk=$chunk; root=sha256:$root; public=1; enc=plain"
path="/v2/read-1/blobs/$blob?ns=$registry"
# ask_slowly COUNT KIND...: so many more of them.
ask_slowly() {
  : >"$work/clients"
  exec_at $outside python3 "$repository_root/tests/net/slow_clients.py" "$(peer_address 1)" "$path" "$claim" "$size" "$chunk" "$@" \
    >"$work/clients" 2>"$work/clients.log" &
  disown
  wait_until grep -q asked "$work/clients" || fail "they get no answer: $(<"$work/clients.log")"
  [[ $(<"$work/clients") == "asked $1" ]] || fail "of $1 some are refused: $(<"$work/clients")"
}
ask_slowly $clients whole demand
asked_at=$SECONDS
sent_before=$(sent)
# The first is the one that they ask for.
read_beside=$(cold read_all read-{1..3} | tail -n 1)
fill_beside=$(cold fill fill-{1..3} | tail -n 1)
resident_beside=$(resident)
held=$(connected)
echo "a cold read took $read_beside ms with them, $read_before without; a fill $fill_beside and $fill_before;" \
  "the node grew by $((resident_beside - resident_before)) bytes; $held of them are connected after $((SECONDS - asked_at)) s"
((read_beside <= times_max * read_before)) || fail "a cold read took $read_beside ms with them, $read_before without"
((fill_beside <= times_max * fill_before)) || fail "a fill took $fill_beside ms with them, $fill_before without"
((resident_beside - resident_before <= memory_max)) || fail "the node grew by $((resident_beside - resident_before)) bytes"
# What was measured was measured beside them, and from this node: each image leaves it once at least.
((held == clients)) || fail "$held of them are still connected: this tells nothing"
(($(sent) - sent_before >= 6 * size)) || fail "what was wanted came from elsewhere: this tells nothing"

note "who else asks is answered, both for all of it and for a chunk that two of them are being sent"
ask() { at $outside curl -fsS -m 10 -o "$work/answer" -w '%{http_code}' "$@" "http://$(peer_address 1)$path"; }
[[ $(ask -H "Range: bytes=0-$((size - 1))") == 206 ]] || fail "all of the blob is refused: $(head -c 300 "$work/answer")"
[[ $(ask -H 'Sluice-Role: present-only' -H "Sluice-Blob: $claim" -H "Range: bytes=0-$((chunk - 1))") == 206 ]] ||
  fail "a chunk is refused: $(head -c 300 "$work/answer")"
(($(leases) >= clients)) || fail "$clients hold $(leases) leases: this tells nothing"
expect_failure "$exit_refused" 'in use' tool_of 1 blob evict "$blob"

note "sixteen more ask as nodes do that fill"
ask_slowly $fill_clients fill
last_asked_at=$SECONDS
read_beside=$(cold read_all read-7)
fill_beside=$(cold fill fill-7)
echo "a cold read took $read_beside ms with them, a fill $fill_beside"
((read_beside <= times_max * read_before)) || fail "a cold read took $read_beside ms with them, $read_before without"
# So many are sent to fills at once, of all chunks: who takes nothing in must not keep the places until it is cut off.
((fill_beside <= times_max * fill_before)) || fail "a fill took $fill_beside ms with them, $fill_before without"

note "they are cut off, and hold nothing any more"
until (($(connected) == 0)); do
  ((SECONDS - last_asked_at < cut_off_seconds_max)) || fail "$(connected) of them are still connected after $cut_off_seconds_max s"
  sleep 0.5
done
echo "the last of them was cut off after $((SECONDS - last_asked_at)) s"
(($(leases) == 0)) || fail "$(leases) leases are left"
tool_of 1 blob evict "$blob" >&2 || fail "what they asked for can't be evicted"
