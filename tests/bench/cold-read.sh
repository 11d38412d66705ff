# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# Sequential cold read of a file through the mount beside curl of the same plain bytes to a file, and beside a program that
# hashes them as well. Arguments: the cases; default: both.
#   plain         256 MiB that can't be compressed, from a registry on loopback; also the CPU time that the cold read
#                 took, over all processes that have a hand in it: until the reader had all, and until the node had held
#                 the whole blob against its digest and its store was on disk
#   compressible  128 MiB of a Debian root file system, from a registry behind 100 Mbit/s and 10 ms

# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh
# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh

read_cold() {
  local node_before registry_before user system
  local TIMEFORMAT='%R %U %S'
  make_cold cold "$work/mnt/cold"
  warm_registry
  node_before=$(cpu_seconds "$node_pid" "$(keeper_pid)")
  registry_before=$(cpu_seconds "$registry_pid")
  { time dd if="$work/mnt/cold/file" of=/dev/null bs=1M status=none; } 2>"$work/time"
  read -r ours user system <"$work/time"
  reader_cpu=$(difference "$user" "-$system")
  node_cpu=$(difference "$(cpu_seconds "$node_pid" "$(keeper_pid)")" "$node_before")
  registry_cpu=$(difference "$(cpu_seconds "$registry_pid")" "$registry_before")
  # Nobody else is measured beside what it does afterwards.
  wait_until node_is_still || fail "the node does not come to rest"
  settled_cpu=$(difference "$(cpu_seconds "$node_pid" "$(keeper_pid)")" "$node_before")
}
node_is_still() {
  local before
  before=$(cpu_seconds "$node_pid" "$(keeper_pid)")
  sleep 0.3
  awk -v before="$before" -v now="$(cpu_seconds "$node_pid" "$(keeper_pid)")" 'BEGIN { exit !(now - before < 0.02) }'
}
# As if the registry had it in memory, as one that many ask for it has.
warm_registry() { cat "$work"/registry/docker/registry/v2/blobs/sha256/*/*/data >/dev/null; }

curl_to_file() {
  rm -f "$work/download"
  drop_page_cache
  warm_registry
  curled=$(seconds_of curl -fsS -o "$work/download" "http://$registry/v2/plain/blobs/$blob")
}

# What curl does, and the hash without which nobody knows what he has.
get_and_hash() {
  rm -f "$work/download"
  drop_page_cache
  warm_registry
  hashed=$(/usr/bin/python3 -B tests/bench/get_blob.py "http://$registry/v2/plain/blobs/$blob" "$work/download" "$blob") ||
    fail "the blob is not what was pushed"
}
others() { in_turns "$pair" curl_to_file get_and_hash; }

per_gib() { awk -v bytes="$file_bytes" '{ print $1 * (1024 ^ 3) / bytes }'; }

# measure_case CASE: of the file $work/tree/file.
measure_case() {
  local case=$1 pair blob ours curled hashed node_cpu settled_cpu reader_cpu registry_cpu
  start_node
  push_tree "$work/tree" cold
  sluice image push --compression none "${push_flags[@]}" "$work/tree" "$registry/plain:1" >&2
  blob=$(stored_blob_of plain)
  mount_image cold "$work/mnt/cold"
  cmp "$work/tree/file" "$work/mnt/cold/file" || fail "the mount's file is not what was pushed"

  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$((pair / 2))" read_cold others
    note "$case: ours $ours s, curl $curled s, with a hash $hashed s; CPU: node $node_cpu s, in the end $settled_cpu s, reader $reader_cpu s, registry $registry_cpu s"
    echo "$ours $curled" >>"$work/times"
    echo "$ours $hashed" >>"$work/times-hashed"
    difference "$node_cpu" "-$reader_cpu" >>"$work/cpu"
    difference "$settled_cpu" "-$reader_cpu" >>"$work/settled-cpu"
    echo "$registry_cpu" >>"$work/registry-cpu"
  done
  report time_ratio ratio --case "$case" --names ours_seconds,curl_seconds <"$work/times"
  report time_over_hashing ratio --case "$case" --names ours_seconds,hashing_seconds <"$work/times-hashed"
  per_gib <"$work/cpu" | report cpu_seconds_per_gib s --case "$case, node and reader"
  per_gib <"$work/settled-cpu" | report cpu_seconds_per_gib s --case "$case, node and reader, with the proof"
  per_gib <"$work/registry-cpu" | report cpu_seconds_per_gib s --case "$case, registry"
  sluice umount "$work/mnt/cold" >&2
  stop_node
  stop_registry
  rm -rf "$work/times" "$work/times-hashed" "$work/cpu" "$work/settled-cpu" "$work/registry-cpu" "$data_dir" "$work/registry"
}

measure() {
  local name file_bytes cases=("$@")
  ((${#cases[@]})) || cases=(plain compressible)
  mkdir "$work/tree"
  for name in "${cases[@]}"; do
    case $name in
      plain)
        file_bytes=$((256 << 20))
        head -c "$file_bytes" /dev/urandom >"$work/tree/file"
        start_registry
        ;;
      compressible)
        file_bytes=$((128 << 20))
        dd if="$(root_tarball)" of="$work/tree/file" bs=1M skip=100 count=$((file_bytes >> 20)) status=none
        link_up 100mbit 5
        # shellcheck disable=SC2034
        registry_runner=(ip netns exec "$link_netns")
        push_flags=(--plain-http)
        start_registry "$link_far:5000"
        ;;
      *) fail "there is no case '$name'" ;;
    esac
    measure_case "$name"
  done
}
