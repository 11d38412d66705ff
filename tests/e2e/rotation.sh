#!/usr/bin/env bash
# Every member of a cluster is restarted in turn, as when nodes are drained one after the other, and then killed in turn,
# while a client of each pulls an ordinary image: no pull is stuck, each gets the right bytes, and the registry is asked
# for little more than one copy.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_images.sh"

export BACKEND=off
readonly nodes=3 attempt_seconds_max=60
mirror_port=$(free_port)
registry_access_log=true
start_registry
push_random app 48000000

start() {
  use_node "$1"
  start_node "$(cluster_config "$1" "$nodes" "name: node-$1" 'refresh: 500ms' 'insecurePeers: true')" \
    'mirror:' "  listen: \"127.0.0.$1:$mirror_port\""
}
# pull N: as a runtime does it, which goes on where an answer broke off; slowly, so that all of the restarts are in it.
pull() {
  local got=$work/got$1 attempts=0 status
  : >"$got"
  while (($(stat -c %s "$got") < size)); do
    ((++attempts <= 100)) || { echo "node $1: given up after 100 attempts" >&2; return 1; }
    status=0
    curl -sS --fail --limit-rate 3M --max-time "$attempt_seconds_max" -C - -o "$got" \
      "http://127.0.0.$1:$mirror_port/v2/app/blobs/$layer?ns=$registry" 2>>"$work/curl$1.log" || status=$?
    # What took so long was stuck.
    ((status != 28)) || { echo "node $1: nothing came to an end in $attempt_seconds_max s" >&2; return 1; }
    ((status == 0)) || sleep 0.3
  done
  [[ $(sha256sum <"$got" | cut -d' ' -f1) == "${layer#sha256:}" ]] || { echo "node $1 gave other bytes" >&2; return 1; }
}

for ((i = 1; i <= nodes; ++i)); do start "$i"; done
knows_all() {
  sluice --output json peers | jq -e '.cluster.cold_start == false and ([.peers[] | select(.name != "")] | length) == 2' >"$work/peers"
}
for ((i = 1; i <= nodes; ++i)); do
  use_node "$i"
  wait_until knows_all || fail "node $i does not know the others: $(sluice peers)"
done

note "all pull, and each node goes and comes back in turn, twice"
for ((i = 1; i <= nodes; ++i)); do pull "$i" & pulls[i]=$!; done
for signal in TERM KILL; do
  for ((i = 1; i <= nodes; ++i)); do
    use_node "$i"
    stop_node "$signal"
    start "$i"
    sleep 0.5
  done
done
for ((i = 1; i <= nodes; ++i)); do
  kill -0 "${pulls[i]}" 2>/dev/null || note "node $i's pull was over before all restarts were"
  wait "${pulls[i]}" || fail "node $i's pull: $(tail -n 3 "$work/curl$i.log")"
done
for ((i = 1; i <= nodes; ++i)); do
  broke=$(wc -l <"$work/curl$i.log")
  ((broke > 0)) || fail "node $i's pull never broke off: the restarts were not in it"
done
# An answer that was broken off counts as whole here.
asked=$(awk -v blob="/blobs/$layer" 'index($0, "GET ") && index($0, blob) { sum += $10 } END { print sum + 0 }' "$work/registry.log")
echo "the registry gave at most $asked bytes of a layer of $size to three nodes"
((asked >= size && asked <= 2 * size)) || fail "the registry gave $asked bytes of $size"
