# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_mirror.sh set the rest
# How long a manifest takes from a node's mirror while 64 layers that it does not have are pulled through it, over 100
# Mbit/s and 10 ms, beside the same when nothing is. Arguments: the cases; default: both.
#   digest  GET by digest, which the node has
#   tag     HEAD by tag, which it asks the registry for

# shellcheck source=tests/bench/lib_mirror.sh
source tests/bench/lib_mirror.sh
# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh
# shellcheck source=tests/bench/lib_busy.sh
source tests/bench/lib_busy.sh

readonly pulls=64 layer_bytes=$((8 << 20)) requests=${REQUESTS:-1000}

# put_layers: into the registry, without crossing the link; names them in $work/layers.
put_layers() {
  local n
  mkdir "$work/bulk"
  for ((n = 0; n < pulls; ++n)); do head -c "$layer_bytes" /dev/urandom >"$work/bulk/$n"; done
  echo layer | gzip >"$work/layer.gz"
  # shellcheck disable=SC2016  # for the shell at the registry
  registry=$registry work=$work on_far_end bash -c "set -euo pipefail; $(declare -f upload put_manifest push_ordinary)"'
    push_ordinary small "$work/layer.gz"
    for file in "$work"/bulk/*; do upload bulk "$file"; done >"$work/layers"'
}

pull_layers() {
  local layer
  while read -r layer; do
    printf 'next\nurl = "http://%s/v2/bulk/blobs/%s?ns=%s"\noutput = "/dev/null"\n' "$mirror" "$layer" "$registry"
  done <"$work/layers" | sed 1d >"$work/curl.config"
  exec curl -fsS --parallel --parallel-immediate --parallel-max "$pulls" -K "$work/curl.config"
}

# Of all 64, since each is asked for as soon as its request comes.
layers_flow() { (($(metric sluice_origin_blob_bytes_total) > layer_bytes)); }

manifest_times() {
  python3 -B tests/bench/timed_requests.py --method "$method" --url "http://$mirror/v2/small/manifests/$name_of?ns=$registry" \
    --count "$requests" || fail "the manifest can't be had"
}

measure_run() {
  local puller
  [[ -z $node_pid ]] || stop_node
  rm -rf "$data_dir"
  start_mirror
  busy_begin
  idle=$(manifest_times)
  pull_layers >"$work/pulls.log" 2>&1 &
  puller=$!
  wait_until layers_flow || fail "the pulls do not begin: $(<"$work/pulls.log")"
  beside=$(manifest_times)
  busy_end
  kill -0 "$puller" 2>/dev/null || fail "the pulls ended before the requests did: $(<"$work/pulls.log")"
  kill "$puller"
  wait "$puller" || true
}

measure() {
  local name method name_of run idle beside cases=("$@")
  runs=${RUNS:-5}
  ((${#cases[@]})) || cases=(digest tag)
  link_up 100mbit 5
  # shellcheck disable=SC2034
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  put_layers
  for name in "${cases[@]}"; do
    case $name in
      digest) method=GET name_of=sha256:$(manifest small | sha256sum | cut -d' ' -f1) ;;
      tag) method=HEAD name_of=1 ;;
      *) fail "there is no case '$name'" ;;
    esac
    for ((run = 0; run < runs; ++run)); do
      measure_run
      note "$name: beside the pulls $beside, idle $idle (median and p99 in s); busy: processor $cpu_busy, disk $disk_busy"
      awk '{ print $2, $4 }' <<<"$beside $idle" >>"$work/slowest-$name"
      awk '{ print $1, $3 }' <<<"$beside $idle" >>"$work/medians-$name"
      note_busy "$work/busy-$name"
    done
    report p99_ratio ratio --case "$name" --pairs-min "$runs" --also "$(most_busy "$work/busy-$name")" \
      --names beside_s,idle_s <"$work/slowest-$name"
    report p50_ratio ratio --case "$name" --pairs-min "$runs" --also "$(most_busy "$work/busy-$name")" \
      --names beside_s,idle_s <"$work/medians-$name"
  done
}
