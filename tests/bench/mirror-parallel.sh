# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_mirror.sh set the rest
# One client that pulls a cold blob through a node's mirror in 20 ranges of 8 MiB at once, beside the same straight from
# the registry, both over 100 Mbit/s and 10 ms; and what the registry sent meanwhile.

# shellcheck source=tests/bench/lib_mirror.sh
source tests/bench/lib_mirror.sh

readonly ranges=20 range_bytes=$((8 << 20))

# get_ranges URL: into $work/part.N
get_ranges() {
  local n
  for ((n = 0; n < ranges; ++n)); do
    echo "next
url = \"$1\"
range = $((n * range_bytes))-$(((n + 1) * range_bytes - 1))
output = \"$work/part.$n\""
  done | sed 1d >"$work/curl.config"
  curl -fsS --parallel --parallel-immediate --parallel-max "$ranges" -K "$work/curl.config"
}

pull_through_mirror() {
  local before n
  make_mirror_cold
  before=$(metric sluice_origin_blob_bytes_total)
  ours=$(seconds_of get_ranges "$(through_mirror layers)")
  fetched=$(($(metric sluice_origin_blob_bytes_total) - before))
  for ((n = 0; n < ranges; ++n)); do cat "$work/part.$n"; done | cmp - "$work/blob" || fail "the mirror gave other bytes"
}
pull_directly() { direct=$(seconds_of get_ranges "$(directly layers)"); }

measure() {
  local pair ours direct fetched
  link_up 100mbit 5
  # shellcheck disable=SC2034
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  put_random_blob layers "$((ranges * range_bytes))"
  start_mirror
  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$pair" pull_through_mirror pull_directly
    note "through the mirror $ours s, directly $direct s; the registry sent $fetched bytes"
    echo "$direct $ours" >>"$work/rates"
    echo "$fetched $blob_bytes" >>"$work/bytes"
  done
  report rate_over_direct ratio --names direct_seconds,ours_seconds <"$work/rates"
  report origin_over_size ratio --names origin_bytes,size_bytes <"$work/bytes"
}
