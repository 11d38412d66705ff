# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_mirror.sh set the rest
# A pull of a cold layer of 256 MiB through a node's mirror, beside the same straight from the registry, both over 100
# Mbit/s and 10 ms.

# shellcheck source=tests/bench/lib_mirror.sh
source tests/bench/lib_mirror.sh

pull_through_mirror() {
  make_mirror_cold
  ours=$(seconds_of curl -fsS -o "$work/pulled" "$(through_mirror layers)")
  cmp "$work/blob" "$work/pulled" || fail "the mirror gave other bytes"
}
pull_directly() { direct=$(seconds_of curl -fsS -o "$work/pulled" "$(directly layers)"); }

measure() {
  local pair ours direct
  link_up 100mbit 5
  # shellcheck disable=SC2034
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  put_random_blob layers "$((256 << 20))"
  start_mirror
  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$pair" pull_through_mirror pull_directly
    note "through the mirror $ours s, directly $direct s"
    echo "$ours $direct" >>"$work/times"
  done
  report time_ratio ratio --names ours_seconds,direct_seconds <"$work/times"
}
