# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# Eight clients pull the same ordinary image of three layers (128 MiB that can't be compressed) at once, with containerd's
# requests, each through the mirror of a node of its own that has nothing of it; all links have the registry's rate,
# RATE_MBIT (default 40: faster, eight shaped links and eight nodes keep two processors busier than BUSY_MAX). What the
# registry answers to requests for blobs, by its log, beside the image; the time until the last has it
# beside what the image takes over one link. Arguments: the cases; default: both.
#   8       nodes that believe each other without TLS, as ordinary layers have no recipes to prove chunks by
#   8-mtls  nodes that talk by TLS

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh
# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh
# shellcheck source=tests/e2e/lib_tls.sh
source tests/e2e/lib_tls.sh

readonly nodes=8 rate_mbit=${RATE_MBIT:-40} mirror=127.0.0.1:7303 layers_mib=(64 40 24)

# push_three_layers: as $registry/crowd:1; sets image_bytes, of its layers and configuration.
push_three_layers() {
  local mib files=()
  for mib in "${layers_mib[@]}"; do
    mkdir -p "$work/layer-$mib"
    head -c $((mib << 20)) /dev/urandom >"$work/layer-$mib/file-$mib"
    tar -C "$work/layer-$mib" -cf - . | gzip -1 >"$work/layer-$mib.gz"
    files+=("$work/layer-$mib.gz")
  done
  registry=$registry work=$work "${registry_runner[@]}" bash -c \
    "set -euo pipefail; $(declare -f upload put_manifest push_ordinary); push_ordinary crowd ${files[*]}"
  image_bytes=$(manifest crowd | jq '[.layers[].size, .config.size] | add')
}

clients_ready() { [[ $(cat "$work"/client-*.log | grep -c ready) == "$nodes" ]]; }

# pull_by_all: sets makespan, sent_on (how much the clients asked the registry for after all), and first_byte, the longest
# time until an answer began.
pull_by_all() {
  local node started clients=()
  rm -f "$work/go" "$work"/client-*.log
  for node in "${everyone[@]}"; do
    exec_at "$node" python3 -B tests/bench/runtime_pull.py --mirror "$mirror" --ns "$registry" --image crowd:1 \
      --go "$work/go" >"$work/client-$node.log" 2>&1 &
    clients+=($!)
  done
  wait_until clients_ready || fail "the clients do not start: $(cat "$work"/client-*.log)"
  started=$EPOCHREALTIME
  touch "$work/go"
  for node in "${!clients[@]}"; do
    wait "${clients[$node]}" || fail "client $((node + 1)) does not get the image: $(<"$work/client-$((node + 1)).log")"
  done
  [[ $(cat "$work"/client-*.log | awk -v bytes="$image_bytes" '$2 == bytes' | wc -l) == "$nodes" ]] ||
    fail "not all got $image_bytes bytes: $(cat "$work"/client-*.log)"
  makespan=$(difference "$(cat "$work"/client-*.log | grep '^[0-9]' | sort -n | tail -n 1 | cut -d' ' -f1)" "$started")
  read -r sent_on first_byte < <(awk '/^[0-9]/ { sum += $3; if ($4 > max) max = $4 } END { print sum, max }' "$work"/client-*.log)
}

crowd_run() {
  local first
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  first=$(($(origin_log_lines) + 1))
  busy_begin
  pull_by_all
  busy_end
  crowd_bytes=$(answered_blob_bytes "$first")
  end_nodes "${everyone[@]}"
  note "$name: $makespan s, $crowd_bytes bytes of blobs from the registry of $image_bytes;" \
    "$sent_on requests were sent on to it, an answer began after $first_byte s at the most;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

measure_case() {
  local name=$1 run image_bytes bound makespan sent_on first_byte crowd_bytes everyone crowd_options=("${crowd_options[@]}")
  new_case
  mapfile -t everyone < <(seq "$nodes")
  crowd_up "$nodes" "${rate_mbit}mbit"
  push_three_layers
  case $name in
    8) crowd_options+=('insecurePeers: true') ;;
    8-mtls) certify_nodes "$nodes" ;;
  esac
  bound=$(awk -v bytes="$image_bytes" -v rate="$rate_mbit" 'BEGIN { print bytes * 8 / (rate * 1e6) }')
  mkdir "$work/$name"
  for ((run = 0; run < runs; ++run)); do
    quiet_run crowd_run || { report_too_busy "$name" origin_over_size makespan_over_bound; fail "the machine is too busy"; }
    echo "$crowd_bytes $image_bytes" >>"$work/$name/origin"
    echo "$makespan $bound" >>"$work/$name/makespan"
    echo "$sent_on" >>"$work/$name/sent-on"
    echo "$first_byte" >>"$work/$name/first-byte"
  done
  report_crowd origin_over_size ratio "$name" --names origin_bytes,size_bytes <"$work/$name/origin"
  report_crowd makespan_over_bound ratio "$name" --names makespan_s,bound_s <"$work/$name/makespan"
  report_crowd sent_on count "$name" <"$work/$name/sent-on"
  report_crowd first_byte_s s "$name" <"$work/$name/first-byte"
  crowd_down
}

measure() {
  local BACKEND=off name integrity=unverified cases=("$@")
  local -x SLUICE_MIRROR_LISTEN=$mirror
  ((${#cases[@]})) || cases=(8 8-mtls)
  for name in "${cases[@]}"; do
    case $name in
      8) measure_case 8 ;;
      8-mtls) nodes_tls=1 measure_case 8-mtls ;;
      *) fail "there is no case '$name'" ;;
    esac
  done
}
