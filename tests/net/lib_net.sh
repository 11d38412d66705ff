# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # those of lib.sh and lib_nodes.sh, which share their variables
# A network of nodes and a registry. Each place has a network namespace of its own and a link whose rate is bounded in
# both directions, on a bridge in a namespace for itself; a place may also be away by a delay, and lose packets. This
# machine's own interfaces are not touched. Sourced after tests/e2e/lib.sh; needs root.
#
# A place is a node's number from 1 on, "origin", or "names". What belongs to a run is named after the shell's process.

# shellcheck source=tests/e2e/lib_nodes.sh
source "$e2e_dir/lib_nodes.sh"

readonly net_prefix=sluice-$$ net_burst_bytes=16384 net_packet_bytes=$((16384 - 1024)) net_queue_max=20ms
declare -A net_devices=() net_relay_pids=()

# net_address PLACE: of the range that is kept for measurements (RFC 2544).
net_address() {
  case $1 in
    hub) echo 198.18.0.254 ;;
    origin) echo 198.18.0.250 ;;
    names) echo 198.18.0.251 ;;
    *) if [[ -n ${net_devices[$1]-} ]]; then echo "198.18.0.$1"; else echo "127.0.0.$1"; fi ;;
  esac
}
# net_address6 PLACE: the same, of the range for local use (RFC 4193).
net_address6() {
  case $1 in
    hub) echo fd18::fe ;;
    origin) echo fd18::fa ;;
    names) echo fd18::fb ;;
    *) printf 'fd18::%x\n' "$1" ;;
  esac
}
net_namespace() { echo "$net_prefix-$1"; }

# at PLACE COMMAND...: runs it in the place's network; the mounts that it sees and makes are this shell's.
at() { nsenter --net="/run/netns/$(net_namespace "$1")" "${@:2}"; }

# exec_at PLACE COMMAND...: the same in the place of this shell, for what goes on in the background: $! is the command.
exec_at() { exec nsenter --net="/run/netns/$(net_namespace "$1")" "${@:2}"; }

# can_net: whether this machine can make one; what is missing goes to standard output.
can_net() {
  ((EUID == 0)) || { echo "only root can make network namespaces"; return 1; }
  local tool probe=$net_prefix-probe message
  for tool in ip tc bridge nsenter iptables ip6tables; do
    command -v "$tool" >/dev/null || { echo "$tool is missing"; return 1; }
  done
  message=$(ip netns add "$probe" 2>&1) || { echo "no network namespace can be made: $message"; return 1; }
  message=$({
    nsenter --net="/run/netns/$probe" ip link add br0 type bridge &&
      nsenter --net="/run/netns/$probe" ip link add probe0 type veth peer name probe1 &&
      nsenter --net="/run/netns/$probe" tc qdisc add dev probe0 root tbf rate 1mbit burst 16kb latency 20ms &&
      nsenter --net="/run/netns/$probe" iptables -A INPUT -p tcp --syn -j DROP &&
      nsenter --net="/run/netns/$probe" ip6tables -A INPUT -p tcp --syn -j DROP &&
      nsenter --net="/run/netns/$probe" ip -6 addr add fd18::1/64 dev br0
  } 2>&1) || { ip netns del "$probe"; echo "the kernel lacks bridge, veth, tbf, iptables or IPv6: $message"; return 1; }
  ip netns del "$probe"
}

# skip_or_fail REASON: ends the script: a test that can't be made is no success where all must be made.
skip_or_fail() {
  [[ ${CI-} != true ]] || fail "$1"
  echo "SKIPPED: $1" >&2
  exit 77
}

# --- places and their links

# net_up: makes the bridge; no place is there yet.
net_up() {
  ip netns add "$(net_namespace hub)"
  at hub sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  at hub ip link set lo up
  at hub ip link add br0 type bridge
  # The host may have its own rules for what bridges pass on; where it has none there is no such key.
  at hub sysctl -qew net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0 \
    net.bridge.bridge-nf-call-arptables=0
  at hub ip addr add "$(net_address hub)/24" dev br0
  at hub ip link set br0 up
  # Who is away by a delay is no neighbour on the bridge: the hub answers for it, at once.
  at hub sysctl -qw net.ipv4.conf.br0.proxy_arp=1 net.ipv4.neigh.br0.proxy_delay=0 net.ipv4.conf.br0.send_redirects=0
  at hub sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.br0.proxy_ndp=1 net.ipv6.neigh.br0.proxy_delay=0
  at hub ip -6 addr add "$(net_address6 hub)/64" dev br0 nodad
}

# net_add PLACE RATE [DELAY_MS [LOSS_PERMILLE]]: RATE as tc has it ("100mbit") is the most in each direction; DELAY_MS
# each way; of a thousand packets LOSS_PERMILLE are lost each way, which of them by NET_SEED (default 1).
net_add() {
  local place=$1 rate=$2 delay=${3:-0} loss=${4:-0} device=l$1
  ip netns add "$(net_namespace "$place")"
  net_devices[$place]=$device
  at "$place" ip link set lo up
  # Nobody here is a router that could be solicited.
  at "$place" sysctl -qw net.ipv6.conf.default.router_solicitations=0
  if [[ $delay == 0 && $loss == 0 ]]; then net_plug "$place"; else net_relay "$place" "$delay" "$loss"; fi
  at hub ip link set "$device" up
  at "$place" tc qdisc add dev "$device" root tbf rate "$rate" burst $net_burst_bytes latency $net_queue_max
  at hub tc qdisc add dev "$device" root tbf rate "$rate" burst $net_burst_bytes latency $net_queue_max
}

# A packet larger than the bucket would be cut into many by tbf, which costs more than the rest of its way.
net_plug() {
  at hub ip link add "${net_devices[$1]}" type veth peer name "${net_devices[$1]}" netns "$(net_namespace "$1")"
  at hub ip link set "${net_devices[$1]}" master br0 gso_max_size $net_packet_bytes
  at "$1" ip link set "${net_devices[$1]}" up gso_max_size $net_packet_bytes
  at "$1" ip addr add "$(net_address "$1")/24" dev "${net_devices[$1]}"
  at "$1" ip route add default via "$(net_address hub)"
  at "$1" ip -6 addr add "$(net_address6 "$1")/64" dev "${net_devices[$1]}" nodad
  at "$1" ip -6 route add default via "$(net_address6 hub)"
}

net_relay() {
  local log=$work/relay-$1.log
  : >"$log"
  "${delay_relay:-$repository_root/build/tests/net/delay_relay}" "/run/netns/$(net_namespace hub)" \
    "/run/netns/$(net_namespace "$1")" "${net_devices[$1]}" "$(awk -v ms="$2" 'BEGIN { printf "%d", ms * 1000 }')" \
    "$3" "${NET_SEED:-1}" >"$log" 2>&1 &
  net_relay_pids[$1]=$!
  disown
  wait_until grep -qx up "$log" || fail "no relay to $1: $(cat "$log")"
  at hub ip link set "${net_devices[$1]}" gso_max_size $net_packet_bytes
  at "$1" ip link set "${net_devices[$1]}" up gso_max_size $net_packet_bytes
  at "$1" ip addr add "$(net_address "$1")/32" dev "${net_devices[$1]}"
  at "$1" ip route add default dev "${net_devices[$1]}"
  at hub ip link set "${net_devices[$1]}" up
  at hub ip route add "$(net_address "$1")/32" dev "${net_devices[$1]}"
  at "$1" ip -6 addr add "$(net_address6 "$1")/128" dev "${net_devices[$1]}" nodad
  at "$1" ip -6 route add default dev "${net_devices[$1]}"
  at hub ip -6 route add "$(net_address6 "$1")/128" dev "${net_devices[$1]}"
  at hub ip -6 neigh add proxy "$(net_address6 "$1")" dev br0
}

# net_rate PLACE RATE: changes the rate of its link, in both directions.
net_rate() {
  local end
  for end in "$1" hub; do
    at "$end" tc qdisc change dev "${net_devices[$1]}" root tbf rate "$2" burst $net_burst_bytes latency $net_queue_max
  done
}

# net_sent PLACE: bytes of TCP payload that its interface has sent, what was sent again included. A packet counts there
# as one, however many the link makes of it, so that each has one header: Ethernet (a relay has none), IP, and TCP with
# a timestamp.
net_sent() {
  local folder=/sys/class/net/${net_devices[$1]}/statistics header=66 bytes packets
  [[ -z ${net_relay_pids[$1]-} ]] || header=52
  # What /sys shows is of the namespace in which it was mounted.
  { read -r bytes; read -r packets; } < <(ip netns exec "$(net_namespace "$1")" cat "$folder/tx_bytes" "$folder/tx_packets")
  echo $((bytes - header * packets))
}

# --- faults of the network: what is lost is lost in silence. net_mend undoes them.

# net_cut FROM TO: nothing that FROM sends reaches TO; the other way is open, for which TO must find FROM on the bridge:
# over IPv6 by ICMP.
net_cut() {
  at "$2" iptables -A INPUT -s "$(net_address "$1")" -j DROP
  at "$2" ip6tables -A INPUT -s "$(net_address6 "$1")" ! -p icmpv6 -j DROP
}

# net_part PLACE PLACE: nothing passes between the two.
net_part() {
  net_cut "$1" "$2"
  net_cut "$2" "$1"
}

# net_isolate PLACE: nothing comes in, and nothing goes out.
net_isolate() {
  local tables
  for tables in iptables ip6tables; do
    at "$1" $tables -A INPUT -i "${net_devices[$1]}" -j DROP
    at "$1" $tables -A OUTPUT -o "${net_devices[$1]}" -j DROP
  done
}

# net_swallow_dials PLACE: whoever connects to it gets no answer; connections that are there go on.
net_swallow_dials() {
  local tables
  for tables in iptables ip6tables; do at "$1" $tables -A INPUT -i "${net_devices[$1]}" -p tcp --syn -j DROP; done
}

# net_mend PLACE...: takes away what was done to these.
net_mend() {
  local place
  for place in "$@"; do
    at "$place" iptables -F
    at "$place" ip6tables -F
  done
}

# --- a registry and nodes in it

# start_origin: a docker-registry at the place "origin", whose store is in memory. An image that is pushed from there
# (push_at_origin) does not cross its link.
start_origin() {
  mkdir -p "$work/registry"
  mountpoint -q "$work/registry" || mount -t tmpfs -o size=50% sluice-net "$work/registry"
  registry_runner=(nsenter "--net=/run/netns/$(net_namespace origin)")
  registry_access_log=true
  start_registry "$(net_address origin):5000"
}

# push_at_origin DIR NAME [OPTION...]: pushes the directory as $registry/NAME:1.
push_at_origin() { "${registry_runner[@]}" "$SLUICE_BIN/sluice" image push --plain-http "${@:3}" "$1" "$registry/$2:1" >&2; }

# As in lib.sh, but asked for at the registry's own place.
manifest() {
  "${registry_runner[@]}" curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/$1/manifests/1"
}

# origin_requests PATTERN [FIRST_LINE]: what the registry was asked for, by its log from a line on, that fits the
# extended regular expression: "METHOD PATH", the status and the answer's bytes. origin_log names the log of what stands
# before the registry, if something does.
origin_log=$work/registry.log
origin_requests() {
  sed -nE "${2:-1},\$s/^[0-9.]+ - .*\"([A-Z]+ [^ ]+) HTTP[^\"]*\" ([0-9]+) ([0-9]+) .*/\1 \2 \3/p" "$origin_log" |
    grep -E -- "$1" || true
}
origin_log_lines() { wc -l <"$origin_log"; }

# A node of lib_nodes.sh is at the place of its number; without such a place it is on loopback, as there.
peer_address() { echo "$(net_address "$1"):$peer_port"; }
eval "$(declare -f use_node | sed '1s/use_node/use_loopback_node/')"
use_node() {
  node_runner=()
  if [[ -n ${net_devices[$1]-} ]]; then
    # Each place has a loopback of its own.
    node_listens[$1]=127.0.0.1:9464
    node_runner=(nsenter "--net=/run/netns/$(net_namespace "$1")")
    [[ -z ${net_devices[names]-} ]] || node_runner+=("${names_runner[@]}")
  fi
  use_loopback_node "$1"
  [[ ! -d $work/stores/$1 ]] || data_dir=$work/stores/$1/data
}

# net_store N SIZE: the next start of node N finds an empty store, on an ext4 of that size in memory.
net_store() {
  local folder=$work/stores/$1 image=$work/store-images/$1
  mkdir -p "$folder" "$work/store-images"
  mountpoint -q "$work/store-images" || mount -t tmpfs -o size=75% sluice-net "$work/store-images"
  # Who had files there may still be ending.
  if mountpoint -q "$folder"; then wait_until umount "$folder" 2>"$work/umount.log" || fail "$(<"$work/umount.log")"; fi
  rm -f "$image"
  truncate -s "$2" "$image"
  mkfs.ext4 -q -E lazy_itable_init=0,nodiscard "$image"
  mount -o loop "$image" "$folder"
}

# --- names

# What asks the place "names" for addresses, and nobody else. Mounts that it makes are its own, so that nodes which use
# names need BACKEND=off.
# shellcheck disable=SC2016  # for the shell that it starts
names_runner=(unshare --mount --propagation slave sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$work/resolv.conf")

# start_names: a dnsmasq at the place "names", which knows no name yet. Nodes that start from now on ask it.
start_names() {
  mkdir -p "$work/names"
  echo "nameserver $(net_address names)" >"$work/resolv.conf"
  touch "$work/names/hosts" "$work/names/servers" "$work/names/log"
  net_add names 100mbit
  exec_at names python3 -c 'import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 5300))
while True:
    query, asker = server.recvfrom(4096)
    server.sendto(query[:2] + b"\x81\x82" + query[4:], asker)' >"$work/names/failing" 2>&1 &
  disown
  answer_names
}

# answer_names: a dnsmasq answers at the place "names".
answer_names() {
  : >"$work/names/log"
  exec_at names dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file --no-resolv --no-hosts \
    --addn-hosts="$work/names/hosts" --servers-file="$work/names/servers" --local-ttl=0 --local=/net.test/ \
    --listen-address="$(net_address names)" --bind-interfaces --log-queries --log-facility="$work/names/log" \
    >"$work/names/out" 2>&1 &
  names_pid=$!
  disown
  wait_until grep -q started "$work/names/log" || fail "no dnsmasq: $(cat "$work"/names/*)"
}

# silence_names: in its place a server that asks to be asked over TCP, and says nothing there.
silence_names() {
  kill "$names_pid"
  wait_until names_gone || fail "dnsmasq does not end"
  exec_at names python3 -c 'import socket, sys
at = (sys.argv[1], 53)
taker = socket.create_server(at, backlog=1000)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(at)
print("started", flush=True)
while True:
    query, asker = server.recvfrom(4096)
    server.sendto(query[:2] + b"\x83\x80" + query[4:], asker)' "$(net_address names)" >"$work/names/silent" 2>&1 &
  names_pid=$!
  disown
  wait_until grep -q started "$work/names/silent" || fail "no silent server: $(cat "$work/names/silent")"
}
names_gone() { ! kill -0 "$names_pid" 2>/dev/null; }

# set_name NAME [ADDRESS...]: what the name, which ends in net.test, stands for from now on; without addresses there is
# no such name. With "SERVFAIL" the server can't find out.
set_name() {
  local name=$1 read_before
  shift
  : >"$work/names/hosts"
  : >"$work/names/servers"
  if [[ ${1-} == SERVFAIL ]]; then
    echo "server=/$name/127.0.0.1#5300" >"$work/names/servers"
  elif (($#)); then
    printf "%s $name\n" "$@" >"$work/names/hosts"
  fi
  read_before=$(grep -c "read $work/names/hosts" "$work/names/log" || true)
  kill -HUP "$names_pid"
  wait_until names_read "$read_before" || fail "dnsmasq does not read its names again"
}
names_read() { (($(grep -c "read $work/names/hosts" "$work/names/log") > $1)); }

# --- the end

# net_down: ends whatever runs at the places, then takes them away.
net_down() {
  local place pid
  for place in $(ip netns list 2>/dev/null | sed -n "s/^\($net_prefix-[a-z0-9]*\).*/\1/p"); do
    for pid in $(ip netns pids "$place" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
  done
  for pid in "${net_relay_pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
  for place in $(ip netns list 2>/dev/null | sed -n "s/^\($net_prefix-[a-z0-9]*\).*/\1/p"); do
    ip netns del "$place"
  done
  net_devices=() net_relay_pids=()
}
