#!/usr/bin/env bash
# Two nodes, a registry and a mirror that speak IPv6 alone: the nodes find each other, what one has pulled the other gets
# from it, and nobody is known twice.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_images.sh"

export BACKEND=off
[[ -e /proc/net/if_inet6 ]] && ip -6 address show dev lo | grep -q ::1 || fail "this machine has no IPv6, not even ::1"
registry_access_log=true
start_registry
push_random app 8000000
# The registry itself listens on IPv4.
gate="[::1]:$(free_port)"
python3 - "${gate##*:}" "$registry" <<'END_OF_PYTHON' &
import socket, sys, threading
def carry(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    finally:
        try: b.shutdown(socket.SHUT_WR)
        except OSError: pass
host, port = sys.argv[2].split(":")
gate = socket.create_server(("::1", int(sys.argv[1])), family=socket.AF_INET6)
while True:
    client, _ = gate.accept()
    registry = socket.create_connection((host, int(port)))
    for ends in ((client, registry), (registry, client)): threading.Thread(target=carry, args=ends, daemon=True).start()
END_OF_PYTHON
wait_until curl -gfs -o "$work/body" "http://$gate/v2/" || fail "the gate does not open"
registry=$gate

declare -A peers mirrors
for i in 1 2; do peers[$i]="[::1]:$(free_port)" mirrors[$i]="[::1]:$(free_port)"; done
for i in 1 2; do
  use_node "$i"
  start_node 'cluster:' "  listen: \"${peers[$i]}\"" "  members: [\"${peers[1]}\", \"${peers[2]}\"]" '  refresh: 500ms' \
    '  insecurePeers: true' 'mirror:' "  listen: \"${mirrors[$i]}\""
done
knows_one_other() {
  sluice --output json peers | jq -e '.cluster.cold_start == false and ([.peers[] | select(.state == "alive")] | length) == 1 and
    (.peers | length) == 1' >"$work/peers"
}
for i in 1 2; do
  use_node "$i"
  wait_until knows_one_other || fail "node $i does not know one other node: $(sluice peers)"
done
asked() { grep -c '"GET /v2/[^ ]*/blobs/' "$work/registry.log" || true; }

note "what one has pulled the other gets from it"
for i in 1 2; do
  curl -gfsS -o "$work/got$i" "http://${mirrors[$i]}/v2/app/blobs/$layer?ns=$gate" || fail "node $i gives no layer: $(tail -n 3 "$work/node$i/sluiced.log")"
  cmp "$work/got$i" "$work/layer.gz" || fail "node $i gives other bytes"
  asked_by[i]=$(asked)
done
((asked_by[1] > 0)) || fail "nobody asked the registry"
# A node that is late once, on a busy machine, costs a request.
((asked_by[2] <= asked_by[1] + 2)) || fail "the registry was asked $((asked_by[2] - asked_by[1])) times more for the second node"
# Each was home of a part of it.
received=0
for i in 1 2; do
  use_node "$i"
  received=$((received + $(metric sluice_peer_received_bytes_total 'lane="express"')))
done
((10 * received >= 8 * size)) || fail "nodes have $received bytes of $size from each other"

note "they are reached from each other, as doctor says"
sluice --output json doctor --config "$config" >"$work/doctor.json" || true
jq -e '.peers | length > 0 and all(.holds)' "$work/doctor.json" >"$work/answer" || fail "doctor: $(jq -c .peers "$work/doctor.json")"
