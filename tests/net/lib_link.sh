# shellcheck shell=bash
# shellcheck disable=SC2154  # lib.sh sets $work and $repository_root
# A registry or a node behind a link: a network namespace of its own, from where bytes come at a rate and after a
# delay. Sourced, after tests/e2e/lib.sh, whose $work and $repository_root it uses; needs root.

link_netns=
link_relay_pid=
# The two ends' addresses, of the range that is kept for measurements (RFC 2544).
# shellcheck disable=SC2034  # for those who source this file
link_near=198.18.0.1 link_far=198.18.0.2
readonly link_device=sluicelink
# A packet larger than the bucket would be cut into many by tbf, which costs more than the rest of its way.
readonly link_burst_bytes=16384 link_packet_bytes=$((16384 - 1024))

# can_link: whether this machine can make one; what is missing goes to standard output.
can_link() {
  [[ -e /dev/net/tun ]] || { echo "/dev/net/tun is missing"; return 1; }
  command -v ip >/dev/null && command -v tc >/dev/null || { echo "ip and tc (iproute2) are missing"; return 1; }
  local probe=sluice-probe-$$ message
  message=$(ip netns add "$probe" 2>&1) || { echo "no network namespace can be made: $message"; return 1; }
  message=$(ip netns exec "$probe" tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 20ms 2>&1) ||
    { ip netns del "$probe"; echo "the kernel has no tbf: $message"; return 1; }
  ip netns del "$probe"
}

# link_up RATE DELAY_MS: makes the far end, from where RATE (as tc has it, "100mbit") is the most in each direction,
# after DELAY_MS each way. What runs by on_far_end has the address $link_far; this end has $link_near.
link_up() {
  : >"$work/relay.log"
  link_netns=sluice-$$
  ip netns add "$link_netns"
  "${delay_relay:-$repository_root/build/tests/net/delay_relay}" /proc/self/ns/net "/run/netns/$link_netns" \
    "$link_device" "$(awk -v ms="$2" 'BEGIN { printf "%d", ms * 1000 }')" >"$work/relay.log" 2>&1 &
  link_relay_pid=$!
  disown
  wait_until grep -qx up "$work/relay.log" || fail "the link can't be made: $(cat "$work/relay.log")"
  ip addr add "$link_near/30" dev "$link_device"
  ip link set "$link_device" up gso_max_size "$link_packet_bytes"
  on_far_end ip addr add "$link_far/30" dev "$link_device"
  on_far_end ip link set "$link_device" up gso_max_size "$link_packet_bytes"
  on_far_end ip link set lo up
  local shaped=(tc qdisc add dev "$link_device" root tbf rate "$1" burst "$link_burst_bytes" latency 20ms)
  "${shaped[@]}"
  on_far_end "${shaped[@]}"
}

on_far_end() { ip netns exec "$link_netns" "$@"; }

# link_down: takes it away; whatever runs at the far end must have ended.
link_down() {
  [[ -n $link_relay_pid ]] && kill "$link_relay_pid" 2>/dev/null
  link_relay_pid=
  [[ -n $link_netns ]] && ip netns del "$link_netns" 2>/dev/null
  link_netns=
}
