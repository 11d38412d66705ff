# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# Sequential cold read of a 256 MiB file through the mount, from a registry on loopback, beside curl of the same
# blob to a file. Also the CPU time that the cold read took, over all processes that have a hand in it.

readonly file_bytes=$((256 << 20))

# cpu_seconds PID...: that the processes have used so far.
cpu_seconds() {
  local pid
  for pid in "$@"; do sed 's/.*) //' "/proc/$pid/stat"; done |
    awk -v tick="$(getconf CLK_TCK)" '{ sum += $12 + $13 } END { printf "%.2f\n", sum / tick }'
}

difference() { awk -v a="$1" -v b="$2" 'BEGIN { print a - b }'; }

read_cold() {
  local node_before registry_before user system
  local TIMEFORMAT='%R %U %S'
  make_cold cold "$work/mnt/cold"
  node_before=$(cpu_seconds "$node_pid" "$(keeper_pid)")
  registry_before=$(cpu_seconds "$registry_pid")
  { time dd if="$work/mnt/cold/file" of=/dev/null bs=1M status=none; } 2>"$work/time"
  read -r ours user system <"$work/time"
  reader_cpu=$(difference "$user" "-$system")
  node_cpu=$(difference "$(cpu_seconds "$node_pid" "$(keeper_pid)")" "$node_before")
  registry_cpu=$(difference "$(cpu_seconds "$registry_pid")" "$registry_before")
}

curl_to_file() {
  rm -f "$work/download"
  drop_page_cache
  curled=$(seconds_of curl -fsS -o "$work/download" "http://$registry/v2/cold/blobs/$blob")
}

per_gib() { awk -v bytes="$file_bytes" '{ print $1 * (1024 ^ 3) / bytes }'; }

measure() {
  local pair blob ours curled node_cpu reader_cpu registry_cpu
  mkdir "$work/tree"
  head -c "$file_bytes" /dev/urandom >"$work/tree/file"
  start_registry
  start_node
  push_tree "$work/tree" cold
  blob=$(data_blob_of cold)
  mount_image cold "$work/mnt/cold"
  cmp "$work/tree/file" "$work/mnt/cold/file" || fail "the mount's file is not what was pushed"

  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$pair" read_cold curl_to_file
    note "ours $ours s, curl $curled s; CPU: node $node_cpu s, reader $reader_cpu s, registry $registry_cpu s"
    echo "$ours $curled" >>"$work/times"
    difference "$node_cpu" "-$reader_cpu" >>"$work/cpu"
    echo "$registry_cpu" >>"$work/registry-cpu"
  done
  report time_ratio ratio --names ours_seconds,curl_seconds <"$work/times"
  per_gib <"$work/cpu" | report cpu_seconds_per_gib s --case node_and_reader
  per_gib <"$work/registry-cpu" | report cpu_seconds_per_gib s --case registry
}
