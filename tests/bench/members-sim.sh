# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# 1,000 nodes that learn of each other, in virtual time: the shipped table and rounds, three seeds. They start within
# a second and know DNS only; one leaves for good; all start again, a hundred at a time.

measure() {
  cmake --build --preset release --target members_sim_test >&2
  SLUICE_SIM_NODES=${NODES:-1000} build/tests/members_sim_test --gtest_output="xml:$work/sim.xml" >"$work/command.log" 2>&1 ||
    fail "a figure is out of its bounds: $(grep -m 1 'actual\|Failure' "$work/command.log")"
  local figure
  for figure in equal_views_15s:ratio handshakes_p99:count handshakes_max:count idle_bytes_per_s:bytes/s; do
    sed -n "s/.*property name=\"${figure%:*}\" value=\"\([0-9.]*\)\".*/\1/p" "$work/sim.xml" |
      report "${figure%:*}" "${figure#*:}" --pairs-min 3
  done
}
