#!/usr/bin/env bash
# An image that only an overlay still uses: its EROFS mount is unmounted, its super block lives. Its blobs stay guarded
# while anybody reads them, also by the daemons that come after; when daemon and keeper are killed at once, which leaves
# nobody to guard them for a while, the next daemon guards them again and drops what was read wrong meanwhile.
source "$(dirname "$0")/lib.sh"

readonly backend=${BACKEND:-fanotify}
overlay=$work/mnt/overlay
mkdir -p "$work/tree" "$work/empty" "$overlay"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 16000000
start_registry
start_node
push_tree "$work/tree" app
blob=$(data_blob_of app)
mount=$work/mnt/app

# put_overlay: on the image, which is mounted.
put_overlay() { mount -t overlay -o "lowerdir=$mount:$work/empty" overlay "$overlay"; }

kill_both() {
  local keeper
  keeper=$(keeper_pid)
  kill -KILL "$node_pid" "$keeper"
  wait_until gone "$node_pid" && wait_until gone "$keeper"
}

is_evicted() { sluice blob evict "$blob" >"$work/evict.log" 2>&1; }

# overlay_is_right: every byte, and no error.
overlay_is_right() {
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$overlay" >"$work/compare.log" 2>&1 ||
    fail "$1: $(tail -n 5 "$work/compare.log")"
}

note "the blobs stay guarded and in the store while the overlay lives"
mount_image app "$mount"
put_overlay
sluice umount "$mount" >&2
expect_failure $exit_refused 'in use|lease' sluice blob evict "$blob"
drop_page_cache
cat "$overlay/usr/lib1/part1/file1" >"$work/output" || fail "a read through the overlay fails"

note "also by the next daemon"
stop_node KILL
restart_node
expect_failure $exit_refused 'in use|lease' sluice blob evict "$blob"
drop_page_cache
overlay_is_right "after the daemon was killed"
umount "$overlay"
wait_until is_evicted || fail "the blob is kept when nobody reads it any more: $(<"$work/evict.log")"

# FUSE and cachefiles fail closed: what reads from a dead mount gets errors.
[[ $backend == fanotify ]] || exit 0

# killed_under_an_overlay WHAT: both killed, and the overlay read while nobody guards anything.
killed_under_an_overlay() {
  drop_page_cache
  kill_both
  cmp -s "$work/tree/usr/lib1/part1/file1" "$overlay/usr/lib1/part1/file1" &&
    fail "the test shows nothing: a hole was not read while nobody guarded it"
  restart_node
  overlay_is_right "$1"
  grep -q 'ALARM.*is guarded again' "$node_log" || fail "no alarm says what happened"
}

note "both killed while the image is not mounted any more"
mount_image app "$mount"
put_overlay
sluice umount "$mount" >&2
killed_under_an_overlay "after both were killed"
note "and once more"
: >"$node_log"
sluice blob evict "$blob" 2>/dev/null && fail "a blob that an overlay reads is evicted"
drop_page_cache
overlay_is_right "in the end"
umount "$overlay"
wait_until is_evicted || fail "the blob is kept when nobody reads it any more: $(<"$work/evict.log")"

note "both killed while it is mounted: it is taken down, and the overlay read right"
mount_image app "$mount"
put_overlay
killed_under_an_overlay "after both were killed under a mount"
mountpoint -q "$mount" && fail "a mount that nothing watches is left"
umount "$overlay"
wait_until is_evicted || fail "the blob is kept when nobody reads it any more: $(<"$work/evict.log")"
