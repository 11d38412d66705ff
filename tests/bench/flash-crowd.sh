# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# All nodes are cold and want the same image at once, over links that are all as fast as the registry's, beside plain
# libtorrent on the same links. The bound is the time that the blob takes over one link. Arguments: the cases; default:
# all.
#   8           128 MiB that can't be compressed, 8 nodes, 100 Mbit/s
#   16          the same with 16 nodes, 50 Mbit/s
#   8-unsealed  as 8, and no manifest tells the blob's root
#   8-mtls      as 8, and the nodes talk by TLS, each with a certificate of its own

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh
# shellcheck source=tests/e2e/lib_tls.sh
source tests/e2e/lib_tls.sh

# Debian's python3-libtorrent belongs to Debian's Python.
torrent_crowd=(/usr/bin/python3 -B "$PWD/tests/bench/torrent_crowd.py")

crowd_run() {
  local node pids=() cpu_before sent_before lines_before
  start_cold 1 "$nodes" "$nodes"
  await_members $((nodes - 1)) "${everyone[@]}"
  for node in "${everyone[@]}"; do use_node "$node"; pids+=("$node_pid"); done
  cpu_before=$(cpu_seconds "${pids[@]}")
  sent_before=$(net_sent origin)
  lines_before=$(origin_log_lines)
  busy_begin
  pull_all "$image" "${everyone[@]}"
  busy_end
  crowd_makespan=$makespan
  crowd_sent=$(($(net_sent origin) - sent_before))
  crowd_requests=$(origin_requests '' $((lines_before + 1)) | wc -l)
  crowd_cpu=$(difference "$(cpu_seconds "${pids[@]}")" "$cpu_before")
  crowd_resident=$(resident_mb_max "${pids[@]}")
  expect_right "${everyone[@]}"
  end_nodes "${everyone[@]}"
  note "$name: $crowd_makespan s, $crowd_sent bytes from the registry in $crowd_requests requests, $crowd_cpu s of CPU," \
    "$crowd_resident MB;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

torrents_ready() { [[ $(cat "$work"/torrent-*.log | grep -c ready) == $((nodes + 1)) ]]; }
torrents_done() { [[ $(cat "$work"/torrent-*.log | grep -c '^[0-9]') == $((nodes + 1)) ]]; }

# start_torrent PLACE FOLDER [OPTION...]: one client, which dials those that were named before it.
start_torrent() {
  local place peers=()
  for place in origin "${everyone[@]}"; do
    [[ $place != "$1" ]] || break
    peers+=("$(net_address "$place")")
  done
  exec_at "$1" "${torrent_crowd[@]}" peer --torrent "$work/crowd.torrent" --folder "$2" --address "$(net_address "$1")" \
    --peers "$(IFS=,; echo "${peers[*]}")" --go "$work/go" "${@:3}" >"$work/torrent-$1.log" 2>&1 &
  torrent_pids+=($!)
  disown
}

torrent_run() {
  local node started torrent_pids=()
  rm -f "$work/go" "$work"/torrent-*.log
  start_torrent origin "$work/registry/torrent" --seed
  for node in "${everyone[@]}"; do
    net_store "$node" 512M
    start_torrent "$node" "$work/stores/$node"
  done
  wait_until torrents_ready || fail "libtorrent does not start: $(cat "$work"/torrent-*.log)"
  torrent_before=$(net_sent origin)
  busy_begin
  started=$EPOCHREALTIME
  touch "$work/go"
  wait_seconds_torrent=$((SECONDS + ${PULL_SECONDS_MAX:-300}))
  until torrents_done; do
    ((SECONDS < wait_seconds_torrent)) || fail "libtorrent does not get it all: $(cat "$work"/torrent-*.log)"
    sleep 0.1
  done
  busy_end
  torrent_makespan=$(difference "$(cat "$work"/torrent-*.log | grep '^[0-9]' | sort -n | tail -n 1)" "$started")
  torrent_sent=$(($(net_sent origin) - torrent_before))
  kill "${torrent_pids[@]}"
  for node in "${torrent_pids[@]}"; do end_process "$node" KILL; done
  for node in "${everyone[@]}"; do
    cmp "$work/tree/file" "$work/stores/$node/file" || fail "libtorrent got other bytes"
  done
  note "$name: libtorrent $torrent_makespan s, $torrent_sent bytes from the seed;" \
    "busy: processor $cpu_busy, disk $disk_busy"
}

# measure_case CASE NODES MBITS
measure_case() {
  local name=$1 nodes=$2 crowd_options=("${crowd_options[@]}") run metric image blob blob_bytes image_bytes bound everyone torrent_makespan torrent_sent
  local metrics=(makespan_over_bound origin_over_size libtorrent_over_ours resident_mb cpu_s_per_gib)
  new_case
  mapfile -t everyone < <(seq "$nodes")
  crowd_up "$nodes" "${3}mbit"
  push_random_image crowd "${BYTES:-$((128 << 20))}"
  if [[ $name == *-unsealed ]]; then
    unseal_image crowd
    crowd_options+=('insecurePeers: true')
  fi
  if [[ $name == *-mtls ]]; then certify_nodes "$nodes"; fi
  mkdir "$work/registry/torrent" "$work/$name"
  cp "$work/tree/file" "$work/registry/torrent/"
  "${torrent_crowd[@]}" make "$work/tree/file" "$work/crowd.torrent"
  bound=$(awk -v bytes="$blob_bytes" -v mbits="$3" 'BEGIN { print bytes * 8 / (mbits * 1e6) }')
  for ((run = 0; run < runs; ++run)); do
    quiet_run crowd_run || { report_too_busy "$name" "${metrics[@]}"; fail "the machine is too busy"; }
    quiet_run torrent_run || { report_too_busy "$name" "${metrics[@]}"; fail "the machine is too busy"; }
    echo "$crowd_makespan $bound" >>"$work/$name/makespan"
    echo "$crowd_sent $image_bytes" >>"$work/$name/origin"
    echo "$crowd_requests" >>"$work/$name/requests"
    echo "$torrent_makespan $crowd_makespan" >>"$work/$name/torrent"
    echo "$torrent_sent $blob_bytes" >>"$work/$name/torrent-origin"
    echo "$crowd_resident" >>"$work/$name/resident"
    awk -v cpu="$crowd_cpu" -v bytes=$((nodes * blob_bytes)) 'BEGIN { print cpu * 1024 ^ 3 / bytes }' >>"$work/$name/cpu"
  done
  report_crowd makespan_over_bound ratio "$name" --names makespan_s,bound_s <"$work/$name/makespan"
  report_crowd origin_over_size ratio "$name" --names origin_bytes,size_bytes <"$work/$name/origin"
  report_crowd origin_requests count "$name" <"$work/$name/requests"
  report_crowd libtorrent_over_ours ratio "$name" --names libtorrent_s,ours_s <"$work/$name/torrent"
  report_crowd libtorrent_origin_over_size ratio "$name" --names origin_bytes,size_bytes <"$work/$name/torrent-origin"
  report_crowd resident_mb MB "$name" <"$work/$name/resident"
  report_crowd cpu_s_per_gib s "$name" <"$work/$name/cpu"
  crowd_down
}

measure() {
  local BACKEND=off name cases=("$@")
  ((${#cases[@]})) || cases=(8 16 8-unsealed 8-mtls)
  install_packages python3-libtorrent
  for name in "${cases[@]}"; do
    case $name in
      8) measure_case 8 8 100 ;;
      8-mtls) nodes_tls=1 measure_case 8-mtls 8 100 ;;
      8-unsealed) integrity=unverified measure_case 8-unsealed 8 100 ;;
      16) measure_case 16 16 50 ;;
      *) fail "there is no case '$name'" ;;
    esac
  done
}
