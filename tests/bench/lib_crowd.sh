# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set and use the rest
# A crowd of nodes on links of a bounded rate, and what the machine was busy with meanwhile. Sourced by scenarios.

# shellcheck source=tests/net/lib_net.sh
source tests/net/lib_net.sh
# shellcheck source=tests/bench/lib_busy.sh
source tests/bench/lib_busy.sh

# RUNS sets how often a crowd is measured; BUSY_MAX up to which share of time processor and disks may be busy.
readonly runs=${RUNS:-5} busy_max=${BUSY_MAX:-0.85} tries_max=3
# new_case: what was busy in earlier cases is not said of this one.
new_case() { crowd_cpu_busy=0 crowd_disk_busy=0; }
new_case

# crowd_up NODES RATE [ORIGIN_DELAY_MS]: the places 1 to NODES and "origin", all with the same rate, and a registry.
crowd_up() {
  local message node
  install_packages iptables
  message=$(can_net) || fail "$message"
  net_up
  net_add origin "$2" "${3:-0}"
  for ((node = 1; node <= $1; ++node)); do net_add "$node" "$2"; done
  start_origin
}

crowd_down() {
  nodes_down
  stop_registry
  net_down
  mounts_below "$work" | while read -r point; do umount "$point"; done
  rm -rf "$work/registry" "$work/stores" "$work/store-images"
  registry_runner=()
}

# push_random_image NAME BYTES: an image of one data blob that can't be compressed, as $registry/NAME:1; sets image (its
# reference by digest), blob, blob_bytes (plain) and image_bytes (of all its blobs, on the wire).
push_random_image() {
  local layers
  rm -rf "$work/tree"
  mkdir "$work/tree"
  head -c "$2" /dev/urandom >"$work/tree/file"
  push_at_origin "$work/tree" "$1"
  image=$(image_by_digest "$1")
  blob=$(data_blob_of "$1")
  blob_bytes=$(data_size_of "$1")
  layers=$(manifest "$1" | jq '[.layers[].size] | add')
  image_bytes=$((layers + $(manifest "$1" | jq .config.size)))
  ((layers > $2)) || fail "the image does not hold $2 bytes: $layers"
}

# unseal_image NAME: takes the roots out of the manifest of $registry/NAME:1, so that no chunk can be verified before its
# blob is whole; sets image.
unseal_image() {
  manifest "$1" | jq -c 'del(.layers[].annotations["io.sluice.blob.root"])' |
    "${registry_runner[@]}" curl -fsS -X PUT --data-binary @- -o "$work/upload" \
      -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/$1/manifests/1"
  image=$(image_by_digest "$1")
}

# What else stands in the section "cluster" of each node's configuration.
crowd_options=('refresh: 1s')

# start_cold FIRST LAST COUNT: nodes FIRST to LAST of a cluster of COUNT, with empty stores.
start_cold() {
  local node
  for ((node = $1; node <= $2; ++node)); do
    net_store "$node" "${STORE_SIZE:-512M}"
    start_member "$node" "$3" "${crowd_options[@]}"
  done
}

# certify_nodes COUNT: an authority, and a certificate for each node; needs lib_tls.sh.
certify_nodes() {
  local node
  tls_authority crowd
  for ((node = 1; node <= $1; ++node)); do
    tls_issue crowd "node-$node" sluice "node-$node.sluice"
    tls_install "$node" ca "$tls_dir/crowd.crt"
    tls_install "$node" crt "$tls_dir/node-$node.crt"
    tls_install "$node" key "$tls_dir/node-$node.key"
  done
}

# By name, and none that it has reason to skip.
knows_members() {
  (($(metric sluice_members 'state="alive"') + $(metric sluice_members 'state="not-asked"') >= $1))
}
# await_members COUNT NODE...: until each of the nodes knows that many others.
await_members() {
  local node
  for node in "${@:2}"; do
    use_node "$node"
    wait_until knows_members "$1" || fail "node $node does not know $1 members"
  done
}

# end_nodes NODE...: takes their mounts away and ends them, with their keepers; their stores stay.
end_nodes() {
  local node pid
  for node in "$@"; do
    use_node "$node"
    mounts_below "$work/node$node" | while read -r point; do umount "$point"; done
    [[ -z $node_pid ]] || kill -TERM "$node_pid" 2>/dev/null || true
  done
  for node in "$@"; do
    use_node "$node"
    stop_node
    for pid in $(pgrep -f "^[^ ]*sluice-keeper.*$work/node$node/"); do end_process "$pid" TERM; done
  done
}

# sluice_of N ARGUMENT...: the command line tool of node N.
sluice_of() { "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" "${@:2}"; }

# begin_pull N IMAGE: node N wants the whole image from now on; pulls[N] is the process that ends when it has it.
declare -A pulls=()
begin_pull() {
  timeout "${PULL_SECONDS_MAX:-300}" "$SLUICE_BIN/sluice" --socket "$work/node$1/run/api.sock" \
    prefetch submit "$2" >"$work/node$1/pull.log" 2>&1 &
  pulls[$1]=$!
}

# pull_all IMAGE NODE...: all of them want the whole image at once; sets makespan, seconds until the last has it.
pull_all() {
  local node started=$EPOCHREALTIME
  for node in "${@:2}"; do begin_pull "$node" "$1"; done
  for node in "${@:2}"; do
    wait "${pulls[$node]}" || fail "node $node does not get the image: $(tail -n 2 "$work/node$node/pull.log")"
  done
  makespan=$(difference "$EPOCHREALTIME" "$started")
}

# has_blob N: whether node N has all of the blob.
has_blob() { sluice_of "$1" --output json blob stat "$blob" 2>/dev/null | jq -e '.present_bytes == .size_bytes' >/dev/null; }
# present_bytes N: of the blob, at node N.
present_bytes() { sluice_of "$1" --output json blob stat "$blob" 2>/dev/null | jq .present_bytes || echo 0; }

# answered_blob_bytes FIRST_LINE: what the registry answered to requests for blobs, by its log from that line on.
answered_blob_bytes() { origin_requests '^GET [^ ]*/blobs/' "$1" | awk '{ sum += $4 } END { print sum + 0 }'; }

# blob_is_right N: whether node N's file of the blob has the blob's bytes.
blob_is_right() {
  [[ $(sha256sum "$work/stores/$1/data/blobs/"*"${blob#sha256:}"* | cut -d' ' -f1) == "${blob#sha256:}" ]]
}
expect_right() {
  local node
  for node in "$@"; do blob_is_right "$node" || fail "node $node has other bytes than the registry"; done
}

# resident_mb_max PID...: the most that any of the processes ever had resident.
resident_mb_max() {
  local pid
  for pid in "$@"; do sed -n 's/^VmHWM:\s*\([0-9]*\) kB/\1/p' "/proc/$pid/status"; done |
    awk '$1 > max { max = $1 } END { printf "%.1f\n", max / 1024 }'
}

# --- what the machine was busy with

# quiet_run FUNCTION [ARGUMENT...]: runs it, and again when the machine was too busy for its figures to count. It calls
# busy_begin and busy_end itself. Returns 1, having said so, if it never was quiet enough.
quiet_run() {
  local try
  for ((try = 1; try <= tries_max; ++try)); do
    "$@"
    if awk -v a="$cpu_busy" -v b="$disk_busy" -v max="$busy_max" 'BEGIN { exit !(a <= max && b <= max) }'; then
      crowd_cpu_busy=$(awk -v a="$crowd_cpu_busy" -v b="$cpu_busy" 'BEGIN { print (a > b ? a : b) }')
      crowd_disk_busy=$(awk -v a="$crowd_disk_busy" -v b="$disk_busy" 'BEGIN { print (a > b ? a : b) }')
      return 0
    fi
    note "the machine was too busy: processor $cpu_busy, disks $disk_busy"
  done
  return 1
}

# report_crowd METRIC UNIT CASE [figure.py options]: as report; with what the machine was busy with at the most, and how
# what was served had been verified.
report_crowd() {
  report "$1" "$2" --case "$3" --pairs-min "${pairs_min:-$runs}" \
    --also "integrity=${integrity:-bound},cpu_busy=$crowd_cpu_busy,disk_busy=$crowd_disk_busy" "${@:4}"
}

# report_too_busy CASE METRIC...: an error line for each.
report_too_busy() {
  local metric
  for metric in "${@:2}"; do
    jq -nc --arg bench "$bench" --arg metric "$metric" --arg case "$1" --arg cpu "$cpu_busy" --arg disk "$disk_busy" \
      --arg max "$busy_max" --arg tries "$tries_max" '{bench: $bench, metric: $metric, case: $case,
        error: "the machine was too busy in \($tries) runs: processor \($cpu), disks \($disk), above \($max)"}'
  done
}
