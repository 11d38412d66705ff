#!/usr/bin/env bash
# Hints over the network: who shows a certificate with the clients' name is served as on the socket, and nobody else; a
# node's certificate is not enough; who is revoked is refused; the node's own certificate is changed in mid-run.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_tls.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000 --files 20
start_registry
write_config
push_tree "$work/tree" app
tls_authority first
tls_authority foreign
tls_node first 1
tls_issue first scheduler sluice-hints
tls_issue first second sluice-hints
tls_issue foreign stranger sluice-hints
tls_revoke first
tls_install 1 crl "$tls_dir/first.crl"
port=$(free_port)
began=$SECONDS
export TMPDIR=$work

# client NAME COMMAND...: with the certificate of that name.
client() {
  local shown=$tls_dir/$1
  timeout 60 /usr/bin/python3 -B "$e2e_dir/hint_client.py" "$repository_root/api/proto" \
    "127.0.0.1:$port,$tls_dir/first.crt,$shown.crt,$shown.key" "${@:2}"
}
refused() { ! client "$1" submit never "$registry/app:1" >"$work/client.log" 2>&1 && grep -q UNAVAILABLE "$work/client.log"; }

note "without TLS, or by the name of nodes, it is not offered"
write_config "api: {prefetchListen: 127.0.0.1:$port}"
expect_failure $exit_usage 'prefetchListen without tls.ca' timeout 60 "$SLUICE_BIN/sluiced" --config "$config"
write_config "api: {prefetchListen: 127.0.0.1:$port, prefetchClient: sluice}" "$(tls_config 1)"
expect_failure $exit_usage 'prefetchClient and tls.peerName are both sluice' timeout 60 "$SLUICE_BIN/sluiced" --config "$config"
write_config "api: {prefetchListen: nonsense}" "$(tls_config 1)"
expect_failure $exit_failed 'api.prefetchListen: .*nonsense' timeout 60 "$SLUICE_BIN/sluiced" --config "$config"

start_node "api: {prefetchListen: 127.0.0.1:$port}" "$(tls_config 1 crl)"

note "who has the name gives a hint and follows it to its end"
client scheduler submit over-tls "$registry/app:1" >"$work/client.log" 2>&1 || fail "$(<"$work/client.log")"
grep -q '^COMPLETED' "$work/client.log" || fail "$(<"$work/client.log")"
sluice --output json prefetch list >"$work/list.json"
[[ $(jq -r '.hints[] | select(.id == "over-tls").state' "$work/list.json") == completed ]] || fail "$(<"$work/list.json")"

note "so does the command line tool, from wherever it is"
remote() {
  sluice --output json prefetch --node "127.0.0.1:$port" --ca "$tls_dir/first.crt" --certificate "$tls_dir/$1.crt" \
    --key "$tls_dir/$1.key" "${@:2}"
}
remote scheduler submit "$registry/app:1" --id by-tool >"$work/tool.json" || fail "$(<"$work/tool.json")"
[[ $(jq -r '.hints[0].state' "$work/tool.json") == completed ]] || fail "$(<"$work/tool.json")"
[[ $(remote scheduler list | jq '.hints | length') == 2 ]] || fail "$(remote scheduler list)"
expect_failure $exit_unreachable 'cannot reach 127.0.0.1.*certificate' remote node-1 list
expect_failure $exit_usage 'requires' sluice prefetch --node "127.0.0.1:$port" list

note "so does the example client"
/usr/bin/python3 -B "$repository_root/api/examples/hint_client.py" --node "127.0.0.1:$port" --ca "$tls_dir/first.crt" \
  --certificate "$tls_dir/scheduler.crt" --key "$tls_dir/scheduler.key" "$registry/app:1" >"$work/example.log" 2>&1 ||
  fail "$(<"$work/example.log")"
grep -q 'app:1 completed' "$work/example.log" || fail "$(<"$work/example.log")"

note "nothing else is served there"
[[ $(client scheduler admin) == 12 ]] || fail "who may hint may do more: $(client scheduler admin 2>&1)"

note "a node is no such client, nor is who has the name of another authority, nor who speaks without TLS"
for name in node-1 stranger; do refused "$name" || fail "$name is served: $(<"$work/client.log")"; done
! timeout 60 curl -fsS --http2-prior-knowledge "http://127.0.0.1:$port/" >"$work/plain.log" 2>&1 || fail "it answers without TLS"
grep -q "a client of 127.0.0.1:$port is refused for its certificate: it lacks the DNS name sluice-hints" "$node_log" ||
  fail "the log does not say who is refused"
# gRPC's lines are ours: by our clock, and bounded.
grep -q ' warning gRPC: ' "$node_log" || fail "nobody hears that somebody speaks something else"
! grep -E '^[EIWD][0-9]{4} ' "$node_log" || fail "gRPC writes past the log"
(($(metric sluice_tls_handshakes_total 'side="server",result="refused"') >= 2)) || fail "nobody counts who is refused"

note "who is revoked is refused, the others go on"
tls_revoke first scheduler
tls_install 1 crl "$tls_dir/first.crl"
wait_until refused scheduler || fail "who is revoked is served: $(<"$work/client.log")"
client second submit after-that "$registry/app:1" >"$work/client.log" 2>&1 || fail "$(<"$work/client.log")"

note "a new certificate of the node's is shown without a restart"
# It shows its certificate before it asks for ours, and hangs up on who has none.
serial_shown() { { openssl s_client -connect "127.0.0.1:$port" </dev/null 2>/dev/null || true; } | openssl x509 -noout -serial 2>/dev/null || true; }
before=$(serial_shown)
tls_node first 1
changed() { [[ -n $(serial_shown) && $(serial_shown) != "$before" ]]; }
wait_until changed || fail "it still shows $before"
client second submit at-last "$registry/app:1" >"$work/client.log" 2>&1 || fail "$(<"$work/client.log")"

# Whoever looked at the certificate had gRPC write a line, twenty times a second.
(($(grep -c ' warning gRPC: ' "$node_log") <= SECONDS - began + 1)) || fail "strangers can have it write without end"

note "a second daemon does not share the port"
stop_node
python3 - "$port" <<'END' &
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
END
holder=$!
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
wait_until taken || fail "nobody holds the port"
expect_failure $exit_failed "api.prefetchListen: cannot listen on 127.0.0.1:$port" timeout 60 "$SLUICE_BIN/sluiced" --config "$config"
kill "$holder"
