#!/usr/bin/env bash
# An image of at least 1,000 files and 100 MB: it reads as its source does; unmounted, and mounted again by another
# daemon, it is read without the registry; and once it is complete it is even mounted without.
source "$(dirname "$0")/lib.sh"
BACKEND=${BACKEND:-fanotify}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 105000000 --files 1200
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"

note "$(find "$mount" -type f | wc -l) files, $(du -s --apparent-size -B1 "$mount" | cut -f1) bytes: as the source"
drop_page_cache
diff -r --no-dereference "$work/tree" "$mount" >&2 || fail "the mount differs from its source"

note "a second read after umount, restart and mount asks the registry for nothing"
sluice umount "$mount"
stop_node TERM
restart_node
mount_image app "$mount"
before=$(metric sluice_origin_requests_total)
[[ $BACKEND != cachefiles ]] || (($(metric sluice_kernel_cache_size_bytes) > 100000000)) || fail "the kernel's copies are not counted"
drop_page_cache
diff -r --no-dereference "$work/tree" "$mount" >&2 || fail "the mount differs from its source"
requests=$(($(metric sluice_origin_requests_total) - before))
((requests == 0)) || fail "the second read made $requests requests"
(($(metric sluice_origin_bytes_total) < 1000000)) || fail "the second mount fetched blobs again"

note "with the registry stopped, a complete image is mounted and read"
digest=$(data_blob_of app)
sluice umount "$mount"
stop_node TERM
stop_registry
restart_node
mount_image app "$mount"
drop_page_cache
diff -r --no-dereference "$work/tree" "$mount" >&2 || fail "the mount differs from its source"
sluice umount "$mount"
[[ -z $(mounts_below "$work") ]] || fail "something is still mounted: $(mounts_below "$work")"

note "the end leaves nothing behind: another node starts at once"
sluice blob evict "$digest" >&2
[[ $BACKEND != cachefiles ]] || ! find "$data_dir/cachefiles/cache" -name "D${digest#sha256:}*" | grep . ||
  fail "the kernel's copy outlives the blob"
stop_node TERM
no_keeper() { [[ -z $(keeper_pid) ]]; }
wait_until no_keeper || fail "the keeper stays though nothing is mounted"
restart_node

if [[ $BACKEND == cachefiles ]]; then
  note "without a copy of the node's own, the kernel's is enough"
  stop_node TERM
  start_registry "$registry"
  KEEP_COPY=false start_node
  mount_image app "$mount"
  diff -r --no-dereference "$work/tree" "$mount" >&2 || fail "the mount differs from its source"
  sluice umount "$mount"
  expect_failure $exit_not_found "$digest|not" sluice blob stat "$digest"
  mount_image app "$mount"
  before=$(metric sluice_origin_bytes_total)
  drop_page_cache
  diff -r --no-dereference "$work/tree" "$mount" >&2 || fail "the mount differs from its source"
  fetched=$(($(metric sluice_origin_bytes_total) - before))
  ((fetched == 0)) || fail "$fetched bytes were fetched though the kernel has them"
  sluice umount "$mount"
fi
