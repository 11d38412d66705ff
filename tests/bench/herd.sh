# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# What the registry is asked for when sixteen nodes miss the same at once. Arguments: the cases; default: all.
#   plain        64 readers on each node want a chunk that is nowhere: requests for the chunk, and for the blob's seek
#                table
#   slow-origin  the same, and the registry answers after 2 s
#   split-views  the same on a network in which each pair of nodes is parted with a chance of one in five, and neither has
#                the other in its list of members; another network for each run
#   isolated     four nodes that reach none of the seventy that they know of, over links of 1 Gbit/s, want 64 MiB each:
#                what the registry sends a second, beside what they may ask it for as a last resort; and the same of
#                nodes that may ask for more (isolated-control), which shows that the first can fail
#   mount        all nodes, which believe each other, mount one tag, in a registry that asks for anonymous tokens:
#                requests for manifests, tokens and the bootstrap
#   mount-private  the same of a private image by nodes that talk by TLS: tokens are counted that took the password, and
#                those that strangers were refused

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh
# shellcheck source=tests/e2e/lib_tls.sh
source tests/e2e/lib_tls.sh

readonly nodes=${NODES:-16} readers=${READERS:-64} chunk_bytes=$((256 << 10)) slow_seconds=2
# PEERS.md, "Members" and "Last resort": how long a node that reaches nobody waits for others; bytes a second that each may
# ask the registry for where 64 and more are known.
readonly cold_start_seconds=4 of_node=$((8 << 20)) isolated_nodes=4 isolated_known=72
# Where the chunk that all want is in the file: in the middle, since the beginning may be read by the way.
readonly chunk_offset=$((17 * chunk_bytes))

# A text shrinks, so that its blob has a seek table.
push_text_image() {
  mkdir -p "$work/tree"
  head -c $((12 << 20)) /dev/urandom | base64 -w 0 | head -c $((16 << 20)) >"$work/tree/file"
  push_at_origin "$work/tree" herd
  image=$(image_by_digest herd)
  blob=$(data_blob_of herd)
  stored_blob=$(stored_blob_of herd)
  table_bytes=$(manifest herd | jq -r '.layers[0].annotations["io.sluice.blob.seek-table"]' | cut -d: -f2)
  ((table_bytes > 0)) || fail "the image has no seek table"
}

# quiet_origin: whether nobody has asked the registry for anything for a second.
quiet_origin() {
  local before
  before=$(origin_log_lines)
  sleep 1
  (($(origin_log_lines) == before))
}

# Until it goes on, the registry takes connections in and says nothing.
slow_origin() {
  kill -STOP "$registry_pid"
  { wait_until test -e "$work/started" && sleep $slow_seconds; kill -CONT "$registry_pid"; } &
}

# part_nodes CHANCE_PERCENT SEED: parts the pairs of nodes that the seed says; parted[N] are those that N does not reach.
declare -A parted=()
part_nodes() {
  local a b
  RANDOM=$2
  for a in "${everyone[@]}"; do parted[$a]=; done
  for ((a = 1; a <= nodes; ++a)); do
    for ((b = a + 1; b <= nodes; ++b)); do
      ((RANDOM % 100 < $1)) || continue
      net_part "$a" "$b"
      parted[$a]+="$b "
      parted[$b]+="$a "
    done
  done
}

# start_parted: cold nodes, of which none has those in its list that it does not reach.
start_parted() {
  local node other
  for node in "${everyone[@]}"; do
    use_node "$node"
    net_store "$node" "${STORE_SIZE:-512M}"
    use_node "$node"
    start_node "$(cluster_config "$node" "$nodes" "${crowd_options[@]}" |
      grep -vxF -f <(for other in ${parted[$node]}; do echo "    - \"$(peer_address "$other")\""; done; echo '-'))"
  done
}

# start_herd CASE RUN: the nodes, as the case has them, when they know whom they can know.
start_herd() {
  local node lacking
  case $1 in
    split-views)
      part_nodes 20 "$2"
      start_parted
      for node in "${everyone[@]}"; do
        lacking=$(wc -w <<<"${parted[$node]}")
        await_members $((nodes - 1 - lacking)) "$node"
      done
      ;;
    *)
      start_cold 1 "$nodes" "$nodes"
      await_members $((nodes - 1)) "${everyone[@]}"
      ;;
  esac
}

# herd_run CASE RUN
herd_run() {
  local node first files=()
  start_herd "$@"
  first=$(($(origin_log_lines) + 1))
  for node in "${everyone[@]}"; do
    sluice_of "$node" mount "$image" "$work/node$node/mnt" >"$work/command.log" 2>&1 || fail "$(cat "$work/command.log")"
    files+=("$work/node$node/mnt/file")
  done
  wait_until quiet_origin || fail "the mounts do not end"
  chunk_first=$(($(origin_log_lines) + 1))
  rm -f "$work/started"
  [[ $1 != slow-origin ]] || slow_origin
  busy_begin
  slowest=$(python3 -B tests/bench/herd_readers.py --like "$work/tree/file" --offset $chunk_offset \
    --length $chunk_bytes --readers "$readers" --started "$work/started" "${files[@]}") || fail "the readers failed"
  busy_end
  wait_until quiet_origin || fail "the registry is asked for ever"
  # The seek table is asked for by its place in the same blob, and known by its size.
  chunk_requests=$(origin_requests "/blobs/$stored_blob " $chunk_first | awk -v table="$table_bytes" '$4 != table' | wc -l)
  table_requests=$(origin_requests "/blobs/$stored_blob " $first | awk -v table="$table_bytes" '$4 == table' | wc -l)
  end_nodes "${everyone[@]}"
  net_mend "${everyone[@]}"
  note "$1: $chunk_requests requests for the chunk, $table_requests for the table, the slowest read took $slowest s;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

measure_herd() {
  local run chunk_requests table_requests slowest
  new_case
  for ((run = 0; run < runs; ++run)); do
    quiet_run herd_run "$1" $((run + 1)) ||
      { report_too_busy "$1" origin_requests_per_chunk table_requests; fail "the machine is too busy"; }
    echo "$chunk_requests" >>"$work/chunk-$1"
    echo "$table_requests" >>"$work/table-$1"
  done
  report_crowd origin_requests_per_chunk requests "$1" <"$work/chunk-$1"
  report_crowd table_requests requests "$1" <"$work/table-$1"
  if [[ $1 == split-views ]]; then sort -n "$work/chunk-$1" | tail -n 1 | report_most origin_requests_per_chunk_max "$1"; fi
}

# isolated_run RATE: the nodes fill their stores, each with a last resort of RATE; sets origin_rate.
isolated_run() {
  local node first
  for node in "${everyone[@]}"; do
    net_store "$node" "${STORE_SIZE:-512M}"
    use_node "$node"
    start_node "$(cluster_config "$node" $isolated_known "${crowd_options[@]}")" 'peers:' "  lastResortRate: $1"
  done
  # Until then they wait for each other.
  sleep $cold_start_seconds
  first=$(($(origin_log_lines) + 1))
  busy_begin
  pull_all "$image" "${everyone[@]}"
  busy_end
  # As the budget counts them: of chunks, and not what the network adds.
  origin_rate=$(awk -v bytes="$(answered_blob_bytes "$first")" -v s="$makespan" 'BEGIN { print bytes / s }')
  end_nodes "${everyone[@]}"
  note "last resort of $1: $origin_rate bytes a second from the registry; busy: processor $cpu_busy, disk $disk_busy"
}

measure_isolated() {
  local run node other everyone image blob blob_bytes image_bytes makespan origin_rate
  local budget=$((isolated_nodes * of_node))
  mapfile -t everyone < <(seq $isolated_nodes)
  crowd_up $isolated_nodes 1gbit
  push_random_image isolated $((64 << 20))
  for node in "${everyone[@]}"; do
    for ((other = node + 1; other <= isolated_nodes; ++other)); do net_part "$node" "$other"; done
  done
  new_case
  for ((run = 0; run < runs; ++run)); do
    quiet_run isolated_run 8Mi || { report_too_busy isolated rate_over_budget; fail "the machine is too busy"; }
    echo "$origin_rate $budget" >>"$work/isolated"
    # As quick as the machine allows.
    isolated_run 1Gi
    echo "$origin_rate $budget" >>"$work/isolated-control"
  done
  report_crowd rate_over_budget ratio isolated --names origin_bytes_per_s,budget_bytes_per_s <"$work/isolated"
  report_crowd rate_over_budget ratio isolated-control --names origin_bytes_per_s,budget_bytes_per_s \
    <"$work/isolated-control"
}
# report_most METRIC CASE: one number, of all runs.
report_most() { pairs_min=1 report_crowd "$1" requests "$2"; }

# start_token_registry PORT [REPOSITORY=USER:PASSWORD]: the registry that asks for tokens stands before the other, at the
# same place; what it was asked is its log.
start_token_registry() {
  gate=$(net_address origin):$1
  at origin python3 -B "$PWD/tests/net/token_registry.py" "$gate" "$registry" "${@:2}" >"$work/gate.log" 2>"$work/gate.err" &
  disown
  origin_log=$work/gate.log
  wait_until at origin curl -s -o "$work/download" "http://$gate/v2/" || fail "no gate: $(cat "$work/gate.err")"
}

mount_run() {
  local node first pids=()
  registry=$gate start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  first=$(($(origin_log_lines) + 1))
  busy_begin
  for node in "${everyone[@]}"; do
    sluice_of "$node" mount "$gate/herd:1" "$work/node$node/mnt" >"$work/node$node/mount.log" 2>&1 &
    pids[node]=$!
  done
  for node in "${everyone[@]}"; do
    wait "${pids[node]}" || fail "node $node does not mount: $(cat "$work/node$node/mount.log")"
  done
  busy_end
  # Those that were told to come with a token count too; of tokens those that were given, and of a private image those
  # that were refused beside.
  manifest_requests=$(origin_requests "/manifests/(1|${image#*@}) " "$first" | wc -l)
  token_requests=$(origin_requests ' /token.* 200' "$first" | wc -l)
  refused_token_requests=$(origin_requests ' /token.* 401' "$first" | wc -l)
  bootstrap_requests=$(origin_requests "/blobs/$stored_bootstrap 20[06]" "$first" | wc -l)
  end_nodes "${everyone[@]}"
  note "$1: requests for manifests $manifest_requests, tokens $token_requests, refused ones $refused_token_requests," \
    "bootstrap $bootstrap_requests;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

# Each node has the password, and a certificate of its own.
make_private() {
  certify_nodes "$nodes"
  mkdir -p "$work/docker"
  printf '{"auths":{"%s":{"auth":"%s"}}}' "$(net_address origin):5002" "$(printf ann:secret | base64)" >"$work/docker/config.json"
  export DOCKER_CONFIG=$work/docker
  start_token_registry 5002 herd=ann:secret
}

# measure_mount CASE
measure_mount() {
  local run gate stored_bootstrap manifest_requests token_requests refused_token_requests bootstrap_requests nodes_tls=
  local crowd_options=("${crowd_options[@]}")
  local metric metrics=(manifest_requests token_requests refused_token_requests bootstrap_requests)
  stored_bootstrap=$(manifest herd | jq -r '.layers[-1].digest')
  new_case
  if [[ $1 == mount-private ]]; then
    nodes_tls=1
    make_private
  else
    crowd_options+=('insecurePeers: true')
    start_token_registry 5001
  fi
  for ((run = 0; run < runs; ++run)); do
    quiet_run mount_run "$1" || { report_too_busy "$1" "${metrics[@]}"; fail "the machine is too busy"; }
    for metric in "${metrics[@]}"; do echo "${!metric}" >>"$work/$1-$metric"; done
  done
  for metric in "${metrics[@]}"; do report_crowd "$metric" requests "$1" <"$work/$1-$metric"; done
}

measure() {
  local name image blob stored_blob table_bytes everyone cases=("$@")
  ((${#cases[@]})) || cases=(plain slow-origin split-views isolated mount mount-private)
  mapfile -t everyone < <(seq "$nodes")
  for name in "${cases[@]}"; do
    case $name in
      plain | slow-origin | split-views | isolated | mount | mount-private) ;;
      *) fail "there is no case '$name'" ;;
    esac
  done
  if [[ ${cases[*]} != isolated ]]; then
    crowd_up "$nodes" 50mbit
    push_text_image
    for name in "${cases[@]}"; do
      case $name in
        plain | slow-origin | split-views) measure_herd "$name" ;;
        mount | mount-private) measure_mount "$name" ;;
      esac
    done
    crowd_down
  fi
  if [[ " ${cases[*]} " == *' isolated '* ]]; then measure_isolated; fi
}
