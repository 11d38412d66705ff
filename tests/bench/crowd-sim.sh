# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# 1,000 nodes that want the same 1 GiB at once, in virtual time: the shipped members' view, homes, directory, spreading,
# planner, fetch table and queues over links of 1 Gbit/s, three seeds. Arguments: the cases; default: all.
#   cold         nobody has anything
#   join         half of the nodes have it all, the others want it
#   join-parts   half of the nodes have each a half of it, the others want it
#   vanish       as cold, and a tenth vanishes for good after a third of the time
#   stale-views  as cold; in the last 30 s a tenth was replaced, and each node knows who was there at some time in them
#   one-chunk    one blob of 256 KiB, which all read
#   by-tls       as cold, where a connection costs a handshake and each node begins few of those in a second
#   control      as cold with spreading off: it shows that the model can fail

readonly nodes=${NODES:-1000} bytes=${BYTES:-$((1 << 30))} seeds=3
# A case that takes longer, or more memory, is of no use.
readonly seconds_max=${SECONDS_MAX:-300} kilobytes_max=$((8 << 20))

# run_case CASE: a file of values for each figure.
run_case() {
  local seed name value
  for ((seed = 1; seed <= seeds; ++seed)); do
    (ulimit -v $kilobytes_max -t "$seconds_max"; GLIBC_TUNABLES=glibc.malloc.hugetlb=1 build/tests/bench/crowd_sim "$1" "$nodes" "$bytes" "$seed") \
      >"$work/$1-$seed" || fail "$1 with seed $seed fails, or takes more than $seconds_max s or 8 GiB"
    note "$1, seed $seed: $(paste -sd' ' "$work/$1-$seed")"
    while read -r name value; do echo "$value" >>"$work/$1.$name"; done <"$work/$1-$seed"
    [[ $(cat "$work/$1.failed" | sort -n | tail -n 1) == 0 ]] || fail "$1: nodes did not get the blob"
  done
}

measure() {
  local name figure cases=("$@")
  ((${#cases[@]})) || cases=(cold join join-parts vanish stale-views one-chunk by-tls control)
  cmake --build --preset release --target crowd_sim >&2
  for name in "${cases[@]}"; do
    run_case "$name"
    for figure in makespan_over_bound:ratio origin_over_size:ratio connections_max:count control_over_payload:ratio \
      requests_per_asker_max:count requests_per_chunk:ratio origin_requests:count cpu_s:s resident_mb:MB; do
      report "${figure%:*}" "${figure#*:}" --case "$name" --pairs-min $seeds <"$work/$name.${figure%:*}"
    done
    if [[ $name == one-chunk ]]; then
      report home_sends count --case "$name" --pairs-min $seeds <"$work/$name.home_sends"
    fi
  done
}
