#!/usr/bin/env bash
# A data directory too small for the image (a loop-mounted ext4): readers get the right bytes or an error, never
# zeros; the node lives on, and serves again when there is room.
source "$(dirname "$0")/lib.sh"

truncate -s 64M "$work/small.img"
mkfs.ext4 -q "$work/small.img"
mkdir "$work/small"
mount -o loop "$work/small.img" "$work/small"
data_dir=$work/small/data

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 96000000
start_registry
READ_DEADLINE=5s start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"

note "reading more than fits"
status=0
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 || status=$?
note "$(tail -n 1 "$work/compare.log")"
((status == 3)) || fail "expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
(($(metric sluice_store_write_failures_total) > 0)) || fail "no write failure was counted"

note "the node lives, and what it could store is right after a restart"
sluice status >"$work/status" || fail "the node does not answer"
stop_node KILL
restart_node
status=0
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" --seed 2 >"$work/compare.log" 2>&1 || status=$?
((status == 3 || status == 0)) || fail "wrong bytes after a restart: $(tail -n 5 "$work/compare.log")"

note "room again"
blob=$(data_blob_of app)
sluice umount "$mount"
# The node may have given it up by itself.
sluice blob evict "$blob" || ! sluice blob stat "$blob" >/dev/null 2>&1 || fail "the blob can't be evicted"
rm -rf "$work/tree"
mkdir "$work/tree"
# It fits twice: the kernel may have a copy of its own. The index and its reserve have 24 MiB.
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000 --seed 2
push_tree "$work/tree" fits
mount_image fits "$mount"
wait_until reads_right "$work/tree" "$mount" || fail "the node does not serve: $(tail -n 5 "$work/compare.log")"
