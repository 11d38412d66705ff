#!/usr/bin/env bash
# Three nodes that prove to each other who they are, each with a certificate of its own: images come from members while
# the registry is away; who shows no good certificate gets nothing; authority and certificates are changed in mid-run; a
# revoked node is cut off. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"
source "$e2e_dir/lib_tls.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 16000000 --files 60
tls_authority first
tls_authority second
tls_authority foreign
for node in 1 2 3; do
  tls_issue first "node-$node" sluice "node-$node.sluice"
  tls_issue second "node-$node-second" sluice "node-$node.sluice"
done
tls_issue foreign stranger sluice node-1.sluice
tls_issue first nameless example.org
tls_revoke first
tls_revoke second

start_registry
use_node 1
write_config
push_tree "$work/tree" app
image=$(image_by_digest app)
blob=$(data_blob_of app)

start_tls_member() {
  use_node "$1"
  start_node "$(cluster_config "$1" 3 "name: node-$1" 'refresh: 500ms')" "$(tls_config "$1" crl)"
}
for node in 1 2 3; do
  tls_install "$node" ca "$tls_dir/first.crt"
  tls_install "$node" crt "$tls_dir/node-$node.crt"
  tls_install "$node" key "$tls_dir/node-$node.key"
  tls_install "$node" crl "$tls_dir/first.crl"
done

note "a node whose certificate is another's does not start"
use_node 2
write_config "$(cluster_config 2 3 'name: node-9')" "$(tls_config 2)"
expect_failure 1 'tls.certificate: it is of node-2 .*set cluster.name' \
  timeout 60 "$SLUICE_BIN/sluiced" --config "$config"
write_config "$(cluster_config 2 3 'name: node-2' 'swarm: true')" "$(tls_config 2)"
expect_failure 2 'cluster.swarm is true and TLS is on' timeout 60 "$SLUICE_BIN/sluiced" --config "$config"

export READ_DEADLINE=10s
for node in 1 2 3; do start_tls_member "$node"; done
knows_all() { (($(metric sluice_members 'state="alive"') == 2)); }
for node in 1 2 3; do
  use_node "$node"
  wait_until knows_all || fail "node $node does not know the others: $(sluice peers)"
  ! grep -q 'without TLS' "$node_log" || fail "node $node warns that there is no TLS"
  grep -q "TLS between nodes: the certificate of node-$node counts until" "$node_log" ||
    fail "node $node does not say when its certificate ends"
done

note "with the registry stopped a second node reads all of the image, by TLS"
use_node 1
sluice mount --fill "$image" "$work/node1/mnt" >&2
blob_complete() { sluice --output json blob stat "$blob" | jq -e '.present_bytes == .size_bytes' >/dev/null; }
wait_until blob_complete || fail "node 1 does not fill the image"
stop_registry
use_node 2
sluice mount "$image" "$work/node2/mnt" >&2
reads_right "$work/tree" "$work/node2/mnt" || fail "node 2 can't read the image"
(($(metric sluice_peer_received_bytes_total 'lane="express"') > 0)) || fail "node 2 got nothing from node 1"
(($(metric sluice_tls_handshakes_total 'side="client",result="ok"') > 0)) || fail "node 2 counts no handshake"
(($(metric sluice_tls_certificate_expiry_timestamp_seconds) > $(date +%s))) || fail "node 2 does not say when its certificate ends"
doctor() { sluice --output json doctor --config "$config" || true; }
doctor | jq -e '.peers | map(.holds) | all(. == true)' >"$work/doctor" || fail "sluice doctor is not content: $(doctor)"
doctor | jq -e '.peers[] | select(.name == "certificate for other nodes")' >"$work/doctor" ||
  fail "sluice doctor does not speak of the certificate: $(doctor)"

# ask CERTIFICATE PATH [CURL ARGUMENT...]: of node 1, as who has that certificate; "none" is without.
ask() {
  local shown=()
  [[ $1 == none ]] || shown=(--cert "$tls_dir/$1.crt" --key "$tls_dir/$1.key")
  curl -sS -m 20 --cacert "$authorities" "${shown[@]}" --connect-to "::$(peer_address 1)" "${@:3}" "https://sluice$2"
}
status_of() { ask "$@" -o "$work/answer" -w '%{http_code}' 2>"$work/curl" || true; }
authorities=$tls_dir/first.crt

note "who shows no good certificate gets nothing"
[[ $(status_of node-2 /v2/) == 200 ]] || fail "a member is not answered: $(<"$work/curl")"
for who in none stranger nameless; do
  [[ $(status_of "$who" /v2/) == 000 ]] || fail "$who is answered: $(<"$work/answer")"
done
! curl -fsS -m 20 -o "$work/answer" "http://$(peer_address 1)/v2/" 2>"$work/curl" || fail "it is answered without TLS"
use_node 1
grep -q 'is refused for its certificate: ' "$node_log" || fail "node 1 does not say whom it refuses"

note "and who has a good one speaks for nobody else"
row() { printf '{"name":"%s","addresses":["127.0.0.3:%s"],"protocol":1,"start":1}' "$1" "$peer_port"; }
[[ $(status_of node-3 /sluice/v1/members -H "Sluice-Member: $(row node-3)") == 200 ]] || fail "a row is refused: $(<"$work/answer")"
[[ $(status_of node-3 /sluice/v1/members -H "Sluice-Member: $(row node-2)") == 403 ]] || fail "another's row is taken: $(<"$work/answer")"
[[ $(status_of node-3 /sluice/v1/dial -H "Sluice-Member: $(row node-2)") == 403 ]] || fail "another's address is dialled: $(<"$work/answer")"

note "authority and certificates are changed while a node reads"
use_node 3
sluice mount "$image" "$work/node3/mnt" >&2
(while [[ ! -e $work/enough ]]; do
  drop_page_cache
  head -c 100000 "$work/node3/mnt/usr/lib1/part1/file1" >"$work/read" || touch "$work/read-failed"
  sleep 0.2
done) &
reader=$!
reloads() { metric sluice_tls_reloads_total 'result="ok"'; }
reloaded() { (($(reloads) >= $1)); }
# await_reloads COUNT: of each node.
await_reloads() {
  local node
  for node in 1 2 3; do
    use_node "$node"
    wait_until reloaded "$1" || fail "node $node does not take the new files: $(tail -n 3 "$node_log")"
  done
}
for node in 1 2 3; do tls_install "$node" ca "$tls_dir/first.crt" "$tls_dir/second.crt"; done
await_reloads 1
# A certificate without its key is nothing to go on with.
use_node 1
tls_install 1 crt "$tls_dir/node-1-second.crt"
says_mismatch() { grep -q 'ALARM: tls.key .*is not the key of tls.certificate.*used on' "$node_log"; }
wait_until says_mismatch || fail "node 1 does not say that its key does not fit"
for node in 1 2 3; do
  tls_install "$node" crt "$tls_dir/node-$node-second.crt"
  tls_install "$node" key "$tls_dir/node-$node-second.key"
done
await_reloads 2
for node in 1 2 3; do
  tls_install "$node" ca "$tls_dir/second.crt"
  tls_install "$node" crl "$tls_dir/second.crl"
done
await_reloads 3
touch "$work/enough"
wait "$reader"
[[ ! -e $work/read-failed ]] || fail "node 3 could not read while certificates were changed"
authorities=$tls_dir/second.crt
[[ $(status_of node-2 /v2/) == 000 ]] || fail "a certificate of the old authority is good: $(<"$work/answer")"
[[ $(status_of node-2-second /v2/) == 200 ]] || fail "one of the new authority is not: $(<"$work/curl")"
reads_right "$work/tree" "$work/node3/mnt" || fail "node 3 can't read the image from members after the change"

note "a node that is revoked is cut off, and the others go on"
tls_revoke second node-3-second
for node in 1 2; do tls_install "$node" crl "$tls_dir/second.crl"; done
for node in 1 2; do
  use_node "$node"
  wait_until reloaded 4 || fail "node $node does not take the list: $(tail -n 3 "$node_log")"
done
[[ $(status_of node-3-second /v2/) == 000 ]] || fail "a revoked certificate is answered: $(<"$work/answer")"
use_node 3
sluice umount "$work/node3/mnt" >&2
sluice blob evict "$blob" >&2
received=$(metric sluice_peer_received_bytes_total)
status=0
timeout 60 "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" mount "$image" "$work/node3/mnt" >"$work/mount" 2>&1 || status=$?
((status != 0)) || timeout 60 head -c 1 "$work/node3/mnt/usr/lib1/part1/file1" >"$work/head" 2>&1 || status=$?
((status == 1)) || fail "what a revoked node gets ends with $status: $(cat "$work/mount" "$work/head")"
(($(metric sluice_peer_received_bytes_total) == received)) || fail "a revoked node got bytes"
use_node 2
sluice umount "$work/node2/mnt" >&2
sluice blob evict "$blob" >&2
sluice mount "$image" "$work/node2/mnt" >&2
reads_right "$work/tree" "$work/node2/mnt" || fail "node 2 can't read from node 1 any more"
echo "three nodes by TLS; strangers, old certificates and a revoked node got nothing"
