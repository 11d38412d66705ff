#!/usr/bin/env bash
# The kernel's cache is too small for all images: copies that nobody uses make room for one that is read; what is in
# use is not discarded, and readers of an image that does not fit get the right bytes or an error, never zeros.
source "$(dirname "$0")/lib.sh"
export BACKEND=cachefiles

truncate -s 96M "$work/small.img"
mkfs.ext4 -q "$work/small.img"
mkdir -p "$data_dir/cachefiles"
mount -o loop "$work/small.img" "$data_dir/cachefiles"
start_registry
READ_DEADLINE=10s start_node
for name in first second large; do
  mkdir "$work/$name"
  bytes=50000000
  [[ $name != large ]] || bytes=120000000
  python3 "$e2e_dir/make_tree.py" "$work/$name" --bytes $bytes --files 60 --seed ${#name}
  push_tree "$work/$name" $name
done

copies_of() { find "$data_dir/cachefiles/cache" -name "D${1#sha256:}*"; }
first=$(data_blob_of first)

note "an image that is unmounted leaves its copy"
mount_image first "$work/mnt/first"
python3 "$e2e_dir/compare_reads.py" "$work/first" "$work/mnt/first" >&2 || fail "the first image does not read right"
sluice umount "$work/mnt/first"
has_copy() { [[ -n $(copies_of "$first") ]]; }
wait_until has_copy || fail "there is no copy of the first image"

note "which goes when another one needs the room"
mount_image second "$work/mnt/second"
python3 "$e2e_dir/compare_reads.py" "$work/second" "$work/mnt/second" >&2 || fail "the second image does not read right"
[[ -z $(copies_of "$first") ]] || fail "the first image's copy is still there"

note "an image that does not fit beside one in use"
mount_image large "$work/mnt/large"
status=0
python3 "$e2e_dir/compare_reads.py" "$work/large" "$work/mnt/large" >"$work/compare.log" 2>&1 || status=$?
note "$(tail -n 1 "$work/compare.log")"
((status == 3)) || fail "expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
drop_page_cache
python3 "$e2e_dir/compare_reads.py" "$work/second" "$work/mnt/second" >&2 || fail "the image in use has suffered"

note "and a copy that is in use is not evicted"
expect_failure $exit_refused 'mounted|in use|lease' sluice blob evict "$(data_blob_of second)"
