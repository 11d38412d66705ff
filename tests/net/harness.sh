#!/usr/bin/env bash
# The harness itself: links are as fast and as slow as they are told to be, in each direction; a place that is away by a
# delay is; a link that loses packets does, and the same ones again; what is cut is cut, one way too, and can be mended,
# over IPv6 too; bytes and requests are counted; nothing is left behind.
source "$(dirname "$0")/../e2e/lib.sh"
# shellcheck source=tests/net/lib_net.sh
source "$repository_root/tests/net/lib_net.sh"
missing=$(can_net) || skip_or_fail "$missing"

readonly file_bytes=2000000

# left_behind: what there still is of the run whose files are at $1 and whose names begin with $2.
left_behind() {
  ip netns list | grep "^$2-" || true
  mounts_below "$1"
  losetup --list --noheadings --output NAME,BACK-FILE | grep -F "$1" || true
  pgrep -af "$1" || true
  [[ ! -e $1 ]] || echo "$1"
}

# A run of its own for each way to end; it says where its files are and how it names things, then waits for its end.
if [[ ${1-} == ends ]]; then
  net_up
  net_add 1 50mbit
  net_add 2 50mbit 1
  net_add origin 50mbit
  start_origin
  net_store 1 64M
  BACKEND=off start_member 1 2
  at 2 setsid sleep 600 &
  disown
  echo "$work $net_prefix"
  case $2 in
    return) exit 0 ;;
    failure) fail "as it was told to" ;;
  esac
  while :; do sleep 0.1; done
fi

# ends_without_trace WAY [SIGNAL]
ends_without_trace() {
  local pid folder prefix rest
  rm -f "$work/ends.out"
  # A background job of a script ignores Ctrl-C; a child of this does not.
  python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])' "$0" ends "$1" >"$work/ends.out" 2>"$work/ends.log" &
  pid=$!
  wait_until test -s "$work/ends.out" || fail "the run does not begin: $(cat "$work/ends.log")"
  read -r folder prefix <"$work/ends.out"
  [[ -z ${2-} ]] || kill "-$2" "$pid"
  wait_until gone "$pid" || fail "the run does not end by $1"
  wait "$pid" || true
  rest=$(left_behind "$folder" "$prefix")
  [[ -z $rest ]] || fail "a run that ended by $1 left behind: $rest"
}

note "a run takes everything away, however it ends"
ends_without_trace return
ends_without_trace failure
ends_without_trace interrupt INT
ends_without_trace termination TERM

interfaces_before=$(ip -o link | wc -l)
net_up
net_add 1 80mbit
net_add 2 80mbit
net_add 3 80mbit 20
net_add 4 80mbit 0 50
net_add origin 80mbit
(($(ip -o link | wc -l) == interfaces_before)) || fail "this machine has other interfaces than before: $(ip -o link)"

mkdir "$work/www"
head -c $file_bytes /dev/urandom >"$work/www/file"
# serve PLACE: its files by HTTP.
serve() {
  at "$1" python3 -m http.server --bind "$(net_address "$1")" -d "$work/www" 8000 >"$work/http-$1.log" 2>&1 &
  disown
  wait_until at "$1" curl -fs -o "$work/download" "http://$(net_address "$1"):8000/" || fail "no HTTP server at $1"
}
# fetch TO FROM [CURL OPTION...]: what curl says of it in the format that is asked for.
fetch() {
  at "$1" curl -fsS --connect-timeout 2 -o "$work/download" -w "${format:-%{speed_download\}}" "${@:3}" \
    "http://$(net_address "$2"):8000/file"
}
# speed TO FROM, connecting TO FROM: the best of three, since the machine may be busy with others.
speed() { for _ in 1 2 3; do fetch "$1" "$2"; echo; done | sort -n | tail -n 1; }
connecting() { for _ in 1 2 3; do format='%{time_connect}' fetch "$1" "$2"; echo; done | sort -n | head -n 1; }
# about A B: whether they differ by less than a quarter.
about() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b * 1.25 && b < a * 1.25) }'; }
quotient() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f\n", a / b }'; }
for place in 1 2 3 4; do serve "$place"; done

note "a quarter of the rate is a quarter of the speed, in both directions"
fast=$(speed 1 2)
net_rate 1 20mbit
down=$(speed 1 2)
up=$(speed 2 1)
about "$(quotient "$fast" "$down")" 4 || fail "at a quarter of the rate place 1 takes in $down bytes/s, before $fast"
about "$(quotient "$fast" "$up")" 4 || fail "at a quarter of the rate place 1 sends $up bytes/s, place 2 sent $fast"
net_rate 1 80mbit
about "$(speed 1 2)" "$fast" || fail "a rate that was put back is not what it was"

note "a place that is away answers later, by about the delay there and back, and is as fast"
near=$(connecting 1 2)
away=$(connecting 1 3)
awk -v near="$near" -v away="$away" 'BEGIN { exit !(away >= 0.04 && away > 4 * near) }' ||
  fail "connecting takes $away s over 20 ms each way, $near s beside it"
fetch 3 1 >"$work/speed" || fail "place 3 gets nothing from place 1"

note "payload is counted, and nothing else"
for place in 2 3; do
  before=$(net_sent "$place") before_taker=$(net_sent 1)
  fetch 1 "$place" >"$work/speed"
  sent=$(($(net_sent "$place") - before)) asked=$(($(net_sent 1) - before_taker))
  # Beside the file an HTTP head; and what the link lost was sent again.
  ((sent >= file_bytes && sent < file_bytes * 21 / 20)) || fail "place $place sent $file_bytes bytes and counts $sent"
  # An HTTP head; acknowledgements are no payload.
  ((asked > 0 && asked < 1000)) || fail "place 1 asked for a file and counts $asked bytes"
done

# losses TO FROM [ADDRESS]: which of a thousand datagrams do not arrive, on one line. The link's queue takes in bursts.
losses() {
  local address=${3:-$(net_address "$1")}
  : >"$work/losses"
  at "$1" python3 -c 'import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], 9000))
receiver.settimeout(10)
print("bound", flush=True)
seen = set()
while "end" not in seen:
    seen.add(receiver.recv(100).decode())
print(*(i for i in range(1000) if str(i) not in seen))' "$address" >"$work/losses" 2>"$work/losses.log" &
  wait_until grep -q bound "$work/losses" || fail "nobody listens: $(cat "$work/losses.log")"
  at "$2" python3 -c 'import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in [*range(1000), *["end"] * 20]:
    sender.sendto(str(i).encode(), (sys.argv[1], 9000))
    if i != "end" and i % 50 == 49: time.sleep(0.005)' "$address"
  wait $! || fail "the last datagrams are lost: $(cat "$work/losses.log")"
  tail -n 1 "$work/losses"
}
# seeded_losses SEED: the same of a relay that carries nothing else.
seeded_losses() {
  local relay
  : >"$work/seeded.log"
  "${delay_relay:-$repository_root/build/tests/net/delay_relay}" "/run/netns/$net_prefix-a" "/run/netns/$net_prefix-b" seeded 0 50 "$1" >"$work/seeded.log" 2>&1 &
  relay=$!
  wait_until grep -qx up "$work/seeded.log" || fail "no relay: $(cat "$work/seeded.log")"
  at a ip addr add 198.18.9.1/30 dev seeded
  at b ip addr add 198.18.9.2/30 dev seeded
  at a ip link set seeded up
  at b ip link set seeded up
  losses b a 198.18.9.2
  kill "$relay"
  wait_until gone "$relay" || fail "the relay does not end"
}

note "a link loses about as much as it is told to, in each direction, and with the same seed the same"
for way in "4 1" "1 4"; do
  # shellcheck disable=SC2086  # two places
  lost=$(losses $way | wc -w)
  ((lost >= 20 && lost <= 100)) || fail "of 1000 datagrams from ${way#* } to ${way% *} $lost are lost at 5 in 100"
done
[[ -z $(losses 2 1) ]] || fail "a link that is to lose nothing loses $(tail -n 1 "$work/losses")"
for place in a b; do
  ip netns add "$net_prefix-$place"
  at "$place" sysctl -qw net.ipv6.conf.default.disable_ipv6=1
done
first=$(seeded_losses 7)
[[ $(seeded_losses 7) == "$first" ]] || fail "the same seed loses others"
[[ $(seeded_losses 8) != "$first" ]] || fail "another seed loses the same"
fetch 1 4 >"$work/speed" || fail "place 1 gets nothing over a link that loses packets"
cmp "$work/download" "$work/www/file" || fail "what comes over a link that loses packets is not what was sent"

# hears PLACE FROM [6]: whether one of three datagrams comes from there; over IPv6. A single one may be lost while a
# neighbour is looked for.
hears() {
  local status=0 address
  address=$("net_address${3-}" "$1")
  : >"$work/hears"
  at "$1" python3 -c 'import socket, sys
receiver = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((sys.argv[1], 9000))
receiver.settimeout(1.5)
print("bound", flush=True)
receiver.recv(1)' "$address" >"$work/hears" 2>"$work/hears.log" &
  wait_until grep -q bound "$work/hears" || fail "nobody listens: $(cat "$work/hears.log")"
  at "$2" bash -c 'for i in 1 2 3; do echo >"/dev/udp/$0/9000"; sleep 0.2; done' "$address" 2>"$work/said" || true
  wait $! || status=$?
  return $status
}
connects() { fetch "$1" "$2" --max-time 5 >"$work/speed" 2>&1; }

note "what is cut is cut, in one direction or both, and mended"
hears 1 2 && hears 2 1 || fail "the two don't hear each other to begin with"
net_cut 1 2
! hears 2 1 || fail "what was cut passes"
hears 1 2 || fail "the other direction is cut too"
! connects 1 2 || fail "a connection is made without answers"
net_mend 2
connects 1 2 || fail "what was mended is still cut"
net_part 1 2
! hears 2 1 && ! hears 1 2 || fail "something passes between the parted"
connects 3 1 || fail "others are parted too"
net_mend 1 2
connects 1 2 || fail "what was mended is still parted"
note "the same over IPv6, to a place that is away too"
for place in 2 3 4; do
  hears 1 "$place" 6 && hears "$place" 1 6 || fail "places 1 and $place don't hear each other over IPv6"
done
net_cut 1 2
! hears 2 1 6 || fail "what was cut passes over IPv6"
hears 1 2 6 || fail "the other direction is cut too over IPv6"
net_mend 2
hears 2 1 6 || fail "what was mended is still cut over IPv6"

for place in 1 3; do
  net_isolate "$place"
  ! hears 2 "$place" 6 && ! hears "$place" 2 6 || fail "place $place is not isolated over IPv6"
  ! hears 2 "$place" && ! hears "$place" 2 || fail "place $place is not isolated"
  net_mend "$place"
  connects "$place" 2 && connects 2 "$place" || fail "place $place is isolated for ever"
done

note "a dial is swallowed, not refused, and what was connected goes on"
net_rate 2 20mbit
at 1 curl -fsS --max-time 20 -o "$work/long" "http://$(net_address 2):8000/file" &
received() { [[ -s $work/long ]]; }
wait_until received || fail "the download does not begin"
net_swallow_dials 2
status=0
fetch 3 2 >"$work/speed" 2>&1 || status=$?
((status == 28)) || fail "who dials gets another answer than none: curl ended with $status"
wait $! || fail "the connection that was there broke"
cmp "$work/long" "$work/www/file" || fail "the connection that was there lost bytes"
net_mend 2

note "a registry counts its requests, a node starts at its place and is asked there"
start_origin
mkdir "$work/tree"
echo text >"$work/tree/file"
push_at_origin "$work/tree" app
first=$(($(origin_log_lines) + 1))
at 1 curl -fsS -o "$work/download" "http://$registry/v2/app/tags/list"
at 1 curl -sSI -o "$work/download" "http://$registry/v2/app/manifests/1"
[[ $(origin_requests 'GET /v2/app/tags/list 200' "$first" | wc -l) == 1 ]] || fail "a GET is not counted once"
[[ $(origin_requests 'HEAD /v2/app/manifests/1 ' "$first" | wc -l) == 1 ]] || fail "a HEAD is not counted once"
export BACKEND=off
for node in 1 2; do
  net_store "$node" 64M
  start_member "$node" 2 'refresh: 500ms'
done
knows_the_other() { (($(metric sluice_members 'state="alive"') == 1)); }
for node in 1 2; do
  use_node "$node"
  wait_until knows_the_other || fail "node $node does not find the other"
done
echo "$fast bytes/s at 80 Mbit/s, $down and $up at 20"
