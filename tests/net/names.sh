#!/usr/bin/env bash
# Nodes that know a DNS name only find each other by it; an answer that fails, is empty or names a thousand addresses of
# nobody does not part them, and what it named is forgotten when it says so.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"
command -v dnsmasq >/dev/null || skip_or_fail "dnsmasq is missing"

readonly peers_name=peers.net.test
export BACKEND=off
ours=() nobody=()
net_up
for node in 1 2 3; do
  net_add "$node" 100mbit
  ours+=("$(net_address "$node")")
done
for i in $(seq 997); do nobody+=("198.18.$((1 + i / 250)).$((1 + i % 250))"); done
start_names

asked() { at 1 "${names_runner[@]}" getent ahostsv4 "$1" | awk '$2 == "STREAM" { print $1 }' | sort -V; }
note "the names are what they were set to"
set_name $peers_name "${ours[@]}"
[[ $(asked $peers_name) == $(printf '%s\n' "${ours[@]}") ]] || fail "the name stands for $(asked $peers_name)"
set_name $peers_name
status=0
at 1 "${names_runner[@]}" getent ahostsv4 $peers_name >"$work/asked" || status=$?
((status == 2)) || fail "a name that is gone stands for $(cat "$work/asked")"
set_name $peers_name SERVFAIL
status=0
at 1 "${names_runner[@]}" python3 -c 'import socket, sys
try:
    socket.getaddrinfo(sys.argv[1], None)
except socket.gaierror as error:
    sys.exit(0 if error.errno == socket.EAI_AGAIN else 1)
sys.exit(2)' $peers_name || status=$?
((status == 0)) || fail "a name that the server fails to find out about is no passing failure: $status"
set_name $peers_name "${ours[@]}" "${nobody[@]}"
(($(asked $peers_name | wc -l) == 1000)) || fail "the name stands for $(asked $peers_name | wc -l) addresses, not 1000"
set_name $peers_name "${ours[@]}"

# members STATE...: how many in any of these states node $current_node knows.
members() {
  local state sum=0
  for state in "$@"; do sum=$((sum + $(metric sluice_members "state=\"$state\""))); done
  echo "$sum"
}
knows_others() { (($(members alive not-asked) == 2)); }
knows_nobody_else() { knows_others && (($(members alive not-asked silent unnamed) == 2)); }
knows_thousand() { knows_others && (($(members alive not-asked silent unnamed) == 999)); }
# on_all CONDITION MESSAGE
on_all() {
  local node
  for node in 1 2 3; do
    use_node "$node"
    wait_until "$1" || fail "node $node: $2; it knows $(curl_members)"
  done
}
curl_members() { "${node_runner[@]}" curl -fsS "http://$listen/metrics" | grep '^sluice_members' | paste -sd' '; }

note "nodes that know the name only find each other"
for node in 1 2 3; do
  use_node "$node"
  start_node 'cluster:' "  listen: \"$(peer_address "$node")\"" "  members: [\"$peers_name:$peer_port\"]" \
    "  swarmPort: $swarm_port" '  refresh: 500ms'
done
on_all knows_nobody_else "does not find the others by name"

# asked_again: whether each node has asked for the name since a line of the server's log.
asked_again() {
  local node
  for node in 1 2 3; do
    awk -v first="$1" -v query="query[A] $peers_name from $(net_address "$node")" '
      NR >= first && index($0, query) { found = 1; exit } END { exit !found }' "$work/names/log" || return 1
  done
}
after_asking() {
  local line
  line=$(($(wc -l <"$work/names/log") + 1))
  wait_until asked_again "$line" || fail "nobody asks for the name again"
  wait_until asked_again "$(($(wc -l <"$work/names/log") + 1))" || fail "nobody asks for the name again"
}

note "a thousand addresses, of which nearly all are nobody's, leave them together"
set_name $peers_name "${ours[@]}" "${nobody[@]}"
on_all knows_thousand "does not know them all"
note "an empty answer, a failure, and no answer leave all as it was"
for answer in '' SERVFAIL; do
  # shellcheck disable=SC2086  # the empty one is no argument
  set_name $peers_name $answer
  after_asking
  on_all knows_thousand "does not keep what it knew when the name is ${answer:-gone}"
done
set_name $peers_name "${ours[@]}" "${nobody[@]}"
# Three nodes ask for two kinds of addresses; who asks again has taken the answer before.
wait_until asked_again "$(($(wc -l <"$work/names/log") + 3 * 2 * 3))" || fail "not all nodes ask for the name again"
troubles() { cat "$work"/node*/sluiced.log | grep -c "can't be resolved"; }
told_again() { (($(troubles) >= troubles_before + 3)); }
troubles_before=$(troubles)
net_isolate names
wait_until told_again || fail "the nodes don't say that the name can't be resolved"
on_all knows_thousand "does not keep what it knew while nobody answers for the name"
net_mend names

note "a server that takes connections and says nothing holds no lookup for ever"
set_name $peers_name "${ours[@]}" "${nobody[@]}"
after_asking
after_asking
troubles_before=$(troubles)
silence_names
wait_until told_again || fail "the nodes don't say that the name can't be resolved"
on_all knows_thousand "does not keep what it knew while nobody answers for the name"
kill "$names_pid"
wait_until names_gone || fail "the silent server does not end"
answer_names

note "who is not there and not named any more is forgotten"
set_name $peers_name "${ours[@]}"
on_all knows_nobody_else "does not forget who is not named"
