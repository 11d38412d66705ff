# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_link.sh set and use the rest
# 200 cold reads of 4 KiB, each in another chunk, at random places of a file of 1 GiB that can't be compressed, through the
# mount, from a registry behind 100 Mbit/s and 36 ms: bytes fetched beside those of the chunks touched, and the median
# beside one kept-alive curl that asks the registry for the same chunks (case: chunks), and for the same 4 KiB (case: 4k).

# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh

readonly file_bytes=$((${BYTES:-$((1 << 30))})) reads=${READS:-200}

random_reads() {
  python3 -B tests/bench/random_reads.py --like "$work/tree/file" --seed "$run" --count "$reads" "$@" || fail "the reads failed"
}

present_bytes() { sluice --output json blob stat "$(data_blob_of cold)" | jq .present_bytes; }
nothing_comes() {
  local before
  before=$(present_bytes)
  sleep 1
  [[ $(present_bytes) == "$before" ]]
}

read_cold() {
  local before
  make_cold cold "$work/mnt/cold"
  before=$(present_bytes)
  ours=$(random_reads --file "$work/mnt/cold/file")
  wait_until nothing_comes || fail "bytes come on and on"
  fetched=$(($(present_bytes) - before))
}

push_at_far_end() { on_far_end "$SLUICE_BIN/sluice" image push --plain-http "${@:2}" "$work/tree" "$registry/$1:1" >&2; }

curl_ranges() { curled=$(random_reads --curl "http://$registry/v2/plain/blobs/$(stored_blob_of plain)"); }

measure() {
  local run ours curled fetched
  (($# == 0)) || fail "there is no case '$1'"
  runs=${RUNS:-5}
  mkdir "$work/tree"
  head -c "$file_bytes" /dev/urandom >"$work/tree/file"
  link_up 100mbit 18
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  start_node
  push_at_far_end cold
  push_at_far_end plain --compression none
  mount_image cold "$work/mnt/cold"
  for ((run = 0; run < runs; ++run)); do
    in_turns "$run" read_cold curl_ranges
    note "ours ${ours% *} s, curl ${curled% *} s for chunks, ${curled#* } s for 4 KiB; $fetched bytes fetched, ${ours#* } touched"
    echo "$fetched ${ours#* }" >>"$work/fetched"
    echo "${ours% *} ${curled% *}" >>"$work/chunks"
    echo "${ours% *} ${curled#* }" >>"$work/exact"
  done
  report fetched_over_touched ratio --pairs-min "$runs" --names fetched_bytes,touched_bytes <"$work/fetched"
  report latency_ratio_p50 ratio --case chunks --pairs-min "$runs" --names ours_seconds,curl_seconds <"$work/chunks"
  report latency_ratio_p50 ratio --case 4k --pairs-min "$runs" --names ours_seconds,curl_seconds <"$work/exact"
}
