# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_crowd.sh set and use the rest
# A read of an absent chunk of 256 KiB through the mount, which another node serves, beside a program that GETs as much
# from nginx at that node's place, hashes and writes it. Arguments: the cases; default: both.
#   loopback  the two nodes on this machine's loopback
#   10ms      10 ms of round trip between them

# shellcheck source=tests/bench/lib_crowd.sh
source tests/bench/lib_crowd.sh

readonly reads=${READS:-60}
nginx_pid=

start_nginx() {
  nginx_address=$(net_address 1):$(free_port)
  mkdir -p "$work/nginx"
  cat >"$work/nginx/nginx.conf" <<END
user root;
master_process off;
daemon off;
pid $work/nginx/pid;
error_log $work/nginx/error.log;
events { worker_connections 64; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  server { listen $nginx_address; root $work/tree; }
}
END
  use_node 1
  "${node_runner[@]}" nginx -p "$work/nginx" -c "$work/nginx/nginx.conf" >"$work/nginx/stderr" 2>&1 &
  nginx_pid=$!
  wait_until nginx_answers || fail "nginx does not start: $(cat "$work"/nginx/*err*)"
}
nginx_answers() { "${node_runner[@]}" curl -fs -r 0-0 -o "$work/download" "http://$nginx_address/file"; }

hit_run() {
  local peer_before
  use_node 2
  sluice mount "$image" "$work/node2/mnt" >&2
  peer_before=$(metric sluice_peer_received_bytes_total 'lane="express"')
  busy_begin
  "${node_runner[@]}" python3 -B tests/bench/peer_reads.py --mounted "$work/node2/mnt/file" --like "$work/tree/file" \
    --server "$nginx_address" --path /file --out "$work/stores/2/got" --count "$reads" --seed "$1" >"$work/medians" ||
    fail "the reads failed"
  busy_end
  peer_bytes=$(($(metric sluice_peer_received_bytes_total 'lane="express"') - peer_before))
  note "$name: ours and nginx $(cat "$work/medians"), $peer_bytes bytes from the other node;" \
    "busy: processor $cpu_busy, disk $disk_busy"
  ((peer_bytes >= reads * (256 << 10) * 9 / 10)) || fail "only $peer_bytes bytes of $reads reads came from the other node"
  sluice umount "$work/node2/mnt" >&2
  sluice blob evict "$blob" >&2
}

measure_case() {
  local name=$1 run image blob blob_bytes image_bytes nginx_address peer_bytes
  new_case
  push_random_image hit "$((128 << 20))"
  start_cold 1 2 2
  await_members 1 1 2
  pull_all "$image" 1
  start_nginx
  for ((run = 0; run < runs; ++run)); do
    quiet_run hit_run "$run" || { report_too_busy "$name" latency_ratio_p50; fail "the machine is too busy"; }
    cat "$work/medians" >>"$work/hit-$name"
  done
  report_crowd latency_ratio_p50 ratio "$name" --names ours_s,nginx_s <"$work/hit-$name"
  kill "$nginx_pid"
  end_nodes 1 2
}

measure() {
  local name cases=("$@")
  ((${#cases[@]})) || cases=(loopback 10ms)
  install_packages iptables nginx-light
  for name in "${cases[@]}"; do
    case $name in
      loopback) start_registry ;;
      10ms)
        net_up
        net_add origin 1gbit
        net_add 1 1gbit
        net_add 2 1gbit 5
        start_origin
        ;;
      *) fail "there is no case '$name'" ;;
    esac
    measure_case "$name"
    crowd_down
  done
}
