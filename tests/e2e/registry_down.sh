#!/usr/bin/env bash
# The registry goes away: mounts are refused with a reason, readers of what is absent get EIO and no zeros, what is
# present is still read; and when the registry is back, so is everything. One that is away for some seconds costs a
# reader time, and no error.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 32000000
start_registry
READ_DEADLINE=5s start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
wait_until cmp "$mount/usr/lib1/part1/file1" "$work/tree/usr/lib1/part1/file1" || fail "the first file can't be read"
drop_page_cache
stop_registry

note "a new mount says that the registry can't be reached"
mkdir "$work/mnt/second"
expect_failure $exit_failed "$registry" sluice mount "$registry/other:1" "$work/mnt/second"
expect_failure $exit_failed "$registry" sluice image inspect "$registry/app:1"

note "what is present is read; what is absent is an error, not zeros"
cmp "$mount/usr/lib1/part1/file1" "$work/tree/usr/lib1/part1/file1" || fail "a present file needs the registry"
status=0
timeout 120 python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" --reads 3 --seed 7 >"$work/compare.log" 2>&1 || status=$?
((status == 3)) || fail "expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
grep -q 'Input/output error' "$work/compare.log" || fail "the readers' error is not EIO: $(cat "$work/compare.log")"

note "the registry comes back"
start_registry "$registry"
wait_until reads_right "$work/tree" "$mount" || fail "reads do not recover: $(tail -n 5 "$work/compare.log")"

note "a registry that is away for less than the deadline fails no reader"
sluice umount "$mount"
sluice blob evict "$(data_blob_of app)"
stop_node
# Without the profile of the reads above, whose replay may have all of it here before the registry is gone.
START_PROFILES=off READ_DEADLINE=60s start_node
mount_image app "$mount"
drop_page_cache
stop_registry
checksum_of "$mount" >"$work/sum" 2>"$work/tar.log" &
reader=$!
sleep 4
alive "$reader" || fail "the reader did not wait: $(cat "$work/tar.log")"
start_registry "$registry"
wait "$reader" || fail "the reader got an error: $(cat "$work/tar.log")"
[[ $(<"$work/sum") == "$(checksum_of "$work/tree")" ]] || fail "the reader was given wrong bytes"
