# shellcheck shell=bash disable=SC2154  # run.sh, its lib.sh and lib_mirror.sh set the rest
# Requests a second that a node's mirror answers for what it has, by 16 kept-alive connections, beside nginx with one
# worker and the same bytes. Arguments: the cases; default: both.
#   512k  ranges of 512 KiB of a blob, asked for by wrk
#   head  HEAD of a manifest, asked for by ab (wrk waits for the body that an answer to HEAD never has)

# shellcheck source=tests/bench/lib_mirror.sh
source tests/bench/lib_mirror.sh
# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh

readonly connections=16 load_seconds=${LOAD_SECONDS:-4}

start_nginx() {
  nginx=127.0.0.1:$(free_port)
  mkdir -p "$work/nginx/v2"
  cp "$work/blob" "$work/nginx/v2/blob"
  manifest warm >"$work/nginx/v2/manifest"
  cat >"$work/nginx/nginx.conf" <<END
user root;
daemon off;
worker_processes 1;
pid $work/nginx/pid;
error_log $work/nginx/error.log;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  server { listen $nginx; root $work/nginx; }
}
END
  nginx -p "$work/nginx" -c "$work/nginx/nginx.conf" >"$work/nginx/stderr" 2>&1 &
  wait_until curl -fs -r 0-0 -o "$work/download" "http://$nginx/v2/blob" || fail "nginx does not start: $(cat "$work"/nginx/*err*)"
}

# ranges_per_second HOST PATH
ranges_per_second() {
  cat >"$work/wrk.lua" <<END
local chunks = $((blob_bytes / (512 << 10)))
request = function()
  local first = math.random(0, chunks - 1) * 524288
  return wrk.format("GET", "$2", {["Range"] = "bytes=" .. first .. "-" .. (first + 524287)})
end
END
  wrk -t 1 -c "$connections" -d "${load_seconds}s" -s "$work/wrk.lua" "http://$1/" >"$work/load.log" 2>&1 ||
    fail "wrk: $(<"$work/load.log")"
  awk '/^Requests\/sec/ { print $2 }' "$work/load.log"
}

# heads_per_second HOST PATH
heads_per_second() {
  ab -q -k -i -c "$connections" -t "$load_seconds" -n 100000000 "http://$1$2" >"$work/load.log" 2>&1 ||
    fail "ab: $(<"$work/load.log")"
  grep -q '^Failed requests: *0$' "$work/load.log" || fail "not all was answered: $(<"$work/load.log")"
  awk '/^Requests per second/ { print $4 }' "$work/load.log"
}

# requests_per_second CASE HOST PATH
requests_per_second() {
  case $1 in
    512k) ranges_per_second "$2" "$3" ;;
    head) heads_per_second "$2" "$3" ;;
  esac
  ! grep -q 'Non-2xx' "$work/load.log" || fail "not all was answered: $(<"$work/load.log")"
}

ask_mirror() { ours=$(requests_per_second "$name" "$mirror" "$mirror_path"); }
ask_nginx() { theirs=$(requests_per_second "$name" "$nginx" "$nginx_path"); }

measure() {
  local name pair ours theirs nginx mirror_path nginx_path cases=("$@")
  ((${#cases[@]})) || cases=(512k head)
  install_packages nginx-light wrk apache2-utils
  start_registry
  put_random_blob warm "$((64 << 20))"
  echo layer | gzip >"$work/layer.gz"
  push_ordinary warm "$work/layer.gz"
  start_mirror
  curl -fsS -o "$work/pulled" "$(through_mirror warm)"
  cmp "$work/blob" "$work/pulled" || fail "the mirror gave other bytes"
  start_nginx
  for name in "${cases[@]}"; do
    case $name in
      512k) mirror_path="/v2/warm/blobs/$blob?ns=$registry" nginx_path=/v2/blob ;;
      head)
        mirror_path="/v2/warm/manifests/sha256:$(manifest warm | sha256sum | cut -d' ' -f1)?ns=$registry"
        nginx_path=/v2/manifest
        ;;
      *) fail "there is no case '$name'" ;;
    esac
    for ((pair = 0; pair < pairs; ++pair)); do
      in_turns "$pair" ask_mirror ask_nginx
      note "$name: the mirror $ours/s, nginx $theirs/s"
      echo "$ours $theirs" >>"$work/rates-$name"
    done
    report rate_ratio ratio --case "$name" --names mirror_per_second,nginx_per_second <"$work/rates-$name"
  done
}
