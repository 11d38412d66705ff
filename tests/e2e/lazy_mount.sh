#!/usr/bin/env bash
# A directory is pushed, mounted and read: the same tree comes out, only what was read is fetched, and what the node
# says of itself agrees.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 64000000 --files 300
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"

note "df tells the image's size: its bootstrap and its blobs, which the device table names"
blocks=$(manifest app | jq '[.layers[].annotations["io.sluice.blob.size"] | tonumber | (. + 4095) / 4096 | floor] | add')
((blocks > 64000000 / 4096)) || fail "an image of 64 MB has $blocks blocks"
read -r seen unit <<<"$(stat -f -c '%b %S' "$mount")"
((seen * unit == blocks * 4096)) || fail "df tells $seen blocks of $unit bytes, not $blocks of 4096"
[[ $(df -B 4096 --output=size "$mount" | tail -n 1) -eq $blocks ]] || fail "df: $(df -B 4096 "$mount")"

note "little is fetched for a little read"
size=$(data_size_of app)
head -c 4096 "$mount/usr/lib1/part1/file1" | cmp - <(head -c 4096 "$work/tree/usr/lib1/part1/file1") || fail "wrong bytes"
fetched=$(metric sluice_origin_bytes_total)
((fetched > 0 && fetched < size / 4)) || fail "$fetched of $size bytes fetched for 4 KiB"

note "the whole tree is what was pushed"
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs from the pushed one"

note "nothing is fetched twice, and warm reads need no origin"
fetched=$(metric sluice_origin_bytes_total)
((fetched < size * 11 / 10 + 8000000)) || fail "$fetched bytes fetched of an image of $size"
drop_page_cache
stop_registry
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" || fail "a warm read needs the registry"

note "the blob proves itself, and is not evicted from under the mount"
blob=$(sluice --output json status | jq -r '.mounts[0].blobs[0].digest')
sluice blob verify "$blob" 2>"$work/verify.log" || fail "the blob does not verify: $(<"$work/verify.log")"
grep -q 'verifying: 100 %' "$work/verify.log" || fail "it does not say how far it was: $(<"$work/verify.log")"
expect_failure $exit_refused 'mounted|in use' sluice blob evict "$blob"

note "umount ends it"
sluice umount "$mount"
mountpoint -q "$mount" && fail "still mounted"
[[ $(sluice --output json status | jq '.mounts | length') == 0 ]] || fail "the mount is still listed"
sluice blob evict "$blob"
