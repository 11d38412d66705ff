# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# 1,000 nodes that learn of each other, in virtual time: the shipped table and rounds, three seeds. They start within
# a second and know DNS only; one leaves for good; all start again, a hundred at a time. Cases:
#   cold     views that are equal after 15 s, handshakes that a node begins; what an idle one sends and takes in
#   leave    views that name who left, after 6 min, and at any time in the 5 min after that
#   rolling  views that are equal when each hundred is back, the fewest

measure() {
  cmake --build --preset release --target members_sim_test >&2
  SLUICE_SIM_NODES=${NODES:-1000} build/tests/members_sim_test --gtest_output="xml:$work/sim.xml" >"$work/command.log" 2>&1 ||
    fail "a figure is out of its bounds: $(grep -m 1 'actual\|Failure' "$work/command.log")"
  local figure name of_case unit
  for figure in cold:equal_views_15s:ratio cold:handshakes_p99:count cold:handshakes_max:count \
    cold:idle_bytes_per_s:bytes/s leave:leave_views_6min:count leave:leave_views_later:count \
    rolling:rolling_equal_views_min:ratio; do
    IFS=: read -r of_case name unit <<<"$figure"
    sed -n "s/.*property name=\"$name\" value=\"\([0-9.]*\)\".*/\1/p" "$work/sim.xml" |
      report "${name#"${of_case}_"}" "$unit" --case "$of_case" --pairs-min 3
  done
}
