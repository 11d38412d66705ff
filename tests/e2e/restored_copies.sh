#!/usr/bin/env bash
# A backup of the data directory is put back, with zeros where files had holes, and blobs' files are removed: the next
# mount works and readers get the right bytes, through cachefiles too, whose kernel takes such zeros in its own copies
# for data. What was only moved is believed.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 24M /dev/urandom >"$work/tree/a"
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
same() { cmp -s <(dd if="$mount/a" bs=1M skip="$1" count=1 status=none) <(dd if="$work/tree/a" bs=1M skip="$1" count=1 status=none); }
all_right() {
  drop_page_cache
  cmp "$mount/a" "$work/tree/a" >&2 || fail "$1: wrong bytes"
}
keeper_is_gone() { [[ -z $(keeper_pid) ]]; }
# The keeper has the kernel's cache, and leaves when nothing is mounted and no daemon is there.
stop_all() {
  if mountpoint -q "$mount"; then sluice umount "$mount" >&2; fi
  stop_node
  wait_until keeper_is_gone || fail "the keeper does not leave"
}
# mount_some BLOCK...: the image, of which so much was read.
mount_some() {
  mount_image app "$mount"
  local block
  for block; do same "$block" || fail "block $block before the backup"; done
}
# What the kernel's copies take up on disk.
bytes_in_copies() {
  { find "$data_dir/cachefiles/cache" -type f -name 'D*' -printf '%b\n' 2>/dev/null || true; } |
    awk '{ sum += $1 * 512 } END { printf "%.0f\n", sum }'
}

mount_some 1 9
stop_all

if [[ ${BACKEND-} == cachefiles ]]; then
  note "a moved data directory: what the kernel has copied is still there"
  before=$(bytes_in_copies)
  ((before > 2000000)) || fail "the kernel's copies have $before bytes of 2 MiB that were read"
  mv "$data_dir" "$work/moved"
  data_dir=$work/moved
  start_node
  mount_image app "$mount"
  (($(bytes_in_copies) >= before)) || fail "a moved cache has $(bytes_in_copies) bytes of $before"
  if grep -q 'not the file that was made' "$run_dir/keeper.log"; then fail "a moved cache is taken for another"; fi
  all_right "moved"
  stop_all
  rm -r "$data_dir"
  data_dir=$work/data
  start_node
  mount_some 1 9
  stop_all
fi

# mount_whole: the image at the first try, but for a kernel's side that has not heard yet of what was lost: that says so.
mount_whole() {
  local end=$((SECONDS + wait_seconds_max))
  until mount_image app "$mount" 2>"$work/mount.log"; do
    grep -q 'has not heard yet .* try again' "$work/mount.log" && ((SECONDS < end)) || fail "mount: $(<"$work/mount.log")"
    sleep 0.2
  done
}

# restored TEXT: a node over what was put back; something was read before in blocks 1 and 9 alone.
restored() {
  restart_node
  mount_whole
  all_right "$1"
  # Verify tells of what was lost, once.
  sluice blob verify "$(data_blob_of app)" >&2 || note "verify told of it"
  sluice blob verify "$(data_blob_of app)" >&2 || fail "$1: what is here now is not right"
  stop_all
  # As before: holes everywhere else.
  rm -rf "$data_dir"
  restart_node
  mount_some 1 9
  stop_all
}
holes=$(bytes_in_copies)
copy() { cp -a --sparse=never "$data_dir" "$work/backup"; }
is_full() { # what is put back has zeros and no holes
  [[ ${BACKEND-} != cachefiles ]] || (($(bytes_in_copies) > holes + 8000000)) || fail "$1: there are holes still"
}

note "in place of the directory"
copy
rm -r "$data_dir"
mv "$work/backup" "$data_dir"
is_full "in place"
restored "in place"
[[ ${BACKEND-} != cachefiles ]] || grep -q 'not the file that was made here' "$run_dir/keeper.log" || fail "nothing was said of it"

note "each file into the directory that is there"
copy
cp -a --sparse=never --remove-destination "$work/backup/." "$data_dir"
rm -r "$work/backup"
is_full "each file"
restored "each file"

note "without attributes"
copy
rm -r "$data_dir"
cp -r --sparse=never "$work/backup" "$data_dir"
rm -r "$work/backup"
is_full "without attributes"
restored "without attributes"
[[ ${BACKEND-} != cachefiles ]] || grep -q "had lost its attribute" "$run_dir/keeper.log" || fail "nothing was said of it"

note "while the node runs and an image is mounted"
restart_node
mount_image app "$mount"
copy
stop_all
rm -r "$data_dir"
mv "$work/backup" "$data_dir"
restored "copied while it ran"

note "the files of blobs are removed while the node runs"
restart_node
rm -f "$data_dir"/blobs/*
mount_whole
all_right "removed files"
