#!/usr/bin/env bash
# SIGTERM with mounts present: the mounts stay, readers wait, and after the restart they get the right bytes.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 48000000
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
cat "$mount/usr/lib1/part1/file1" >"$work/first"

stop_node TERM
mountpoint -q "$mount" || fail "the mount did not outlive the daemon"

note "what is present is read without the daemon"
drop_page_cache
timeout 20 cmp "$mount/usr/lib1/part1/file1" "$work/tree/usr/lib1/part1/file1" || fail "a present file can't be read"

note "a reader of what is absent waits for the next daemon"
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 &
reader=$!
sleep 2
alive "$reader" || fail "the reader did not wait: $(cat "$work/compare.log")"
restart_node
wait "$reader" || fail "after the restart: $(cat "$work/compare.log")"

note "the mount is found again"
[[ $(sluice --output json status | jq -r '.mounts[].mount_point') == "$mount" ]] || fail "the mount is not listed"
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the tree differs after the restart"

note "a reader in the middle of a cold read does not notice a SIGTERM and a restart"
for round in 1 2 3 4 5; do
  make_cold app "$mount"
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" --seed "$round" >"$work/compare.log" 2>&1 &
  reader=$!
  sleep "0.$round"
  stop_node TERM
  restart_node
  wait "$reader" || fail "round $round: $(cat "$work/compare.log")"
done
sluice umount "$mount"

note "a mount point that was named through a symbolic link is found again"
ln -s "$work/mnt" "$work/link"
mount_image app "$work/link/app"
stop_node TERM
restart_node
mountpoint -q "$mount" || fail "the mount was taken down"
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the tree differs"
sluice umount "$work/link/app"
