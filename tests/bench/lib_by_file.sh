# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set the rest
# The image as one EROFS file of a web server behind the link, and the same starts from that file as others bring it here:
# nbdkit (curl plugin, readahead filter) over nbdfuse, and httpdirfs. Sourced after lib_start.sh.

readonly by_file_packages=(nginx-light nbdkit libnbd-bin httpdirfs fuse3)

# serve_image_file: $work/tree as an EROFS image that is not compressed.
serve_image_file() {
  image_url=http://$link_far:8000/image.erofs
  mkdir -p "$work/web/files"
  mkfs.erofs --quiet "$work/web/files/image.erofs" "$work/tree" >"$work/mkfs.log" 2>&1 || fail "$(cat "$work/mkfs.log")"
  cat >"$work/web/nginx.conf" <<END
user root;
daemon off;
master_process off;
pid $work/web/pid;
error_log $work/web/error.log;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  server { listen $link_far:8000; root $work/web/files; autoindex on; }
}
END
  # Not by on_far_end: what ends then is a shell.
  ip netns exec "$link_netns" nginx -p "$work/web" -c "$work/web/nginx.conf" >"$work/web/stderr" 2>&1 &
  wait_until curl -fs -r 0-0 -o "$work/download" "$image_url" || fail "nginx does not start: $(cat "$work"/web/*err*)"
}

bring_by_nbdkit() {
  nbdfuse "$1/image.erofs" --command nbdkit -s --exit-with-parent --filter=readahead --filter=cache curl "$image_url" \
    >"$work/by-file.log" 2>&1 &
}
# Its check for ranges (1.2.5) denies nginx them, and with its cache it gives other bytes than the server.
bring_by_httpdirfs() {
  httpdirfs -f --no-range-check "${image_url%/*}/" "$1" >"$work/by-file.log" 2>&1 &
}

# start_by TOOL: from when the tool is started until the program would have ended; sets took.
start_by() {
  local folder=$work/by-file mounted=$work/mnt/by-file started both deadline by_file_pid
  mkdir -p "$folder" "$mounted"
  drop_page_cache
  started=$EPOCHREALTIME
  "bring_by_$1" "$folder"
  by_file_pid=$!
  deadline=$((SECONDS + 30))
  until [[ -s $folder/image.erofs ]]; do
    ((SECONDS < deadline)) || fail "$1 does not start: $(tail -n 3 "$work/by-file.log")"
    sleep 0.005
  done
  mount -t erofs -o loop,ro "$folder/image.erofs" "$mounted" || fail "$1 gives no image: $(tail -n 3 "$work/by-file.log")"
  both=$(replay "$trace" "$mounted" "$started") || fail "the replay of '$trace' failed by $1"
  took=${both% *}
  umount "$mounted"
  fusermount -u "$folder"
  end_process "$by_file_pid" TERM
}
