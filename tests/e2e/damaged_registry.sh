#!/usr/bin/env bash
# A registry whose disk lies: wrong bytes in a chunk, in the bootstrap, in a manifest. Nobody ever reads them: a reader
# gets an error, a mount is refused, and once the registry is mended all is well again.
source "$(dirname "$0")/lib.sh"

file_of() { echo "$work/registry/docker/registry/v2/blobs/sha256/${1:7:2}/${1:7}/data"; }

# damage FILE OFFSET / mend FILE: turns 64 bytes around, once; puts them back.
damage() {
  cp "$1" "$1.good"
  python3 - "$1" "$2" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    there = f.read(64)
    f.seek(int(sys.argv[2]))
    f.write(bytes(b ^ 0xFF for b in there))
PY
}
mend() { mv "$1.good" "$1"; }

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 16000000
start_registry
start_node
# Without compression: any byte may be turned, and manifests may say less. What is compressed comes last.
push_flags=(--compression none)
push_tree "$work/tree" app
blob=$(data_blob_of app)
bootstrap=$(bootstrap_of app)
mount=$work/mnt/app
mkdir "$mount"

note "a manifest"
tag_link=$work/registry/docker/registry/v2/repositories/app/_manifests/tags/1/current/link
manifest_file=$(file_of "$(<"$tag_link")")
cp "$manifest_file" "$manifest_file.good"
sed -i 's/"size":/"size": /' "$manifest_file"
expect_failure $exit_failed 'digest' sluice mount "$registry/app:1" "$mount"
mend "$manifest_file"

note "the bootstrap"
damage "$(file_of "$bootstrap")" 8000
expect_failure $exit_failed "digest" sluice mount "$registry/app:1" "$mount"
mountpoint -q "$mount" && fail "a damaged bootstrap was mounted"
mend "$(file_of "$bootstrap")"

note "what is no EROFS image"
head -c 100000 /dev/urandom >"$work/noise"
digest=$(upload app "$work/noise")
manifest app | jq -c --arg d "$digest" '.layers[1].digest = $d | .layers[1].size = 100000' | put_manifest app noise
expect_failure $exit_usage 'EROFS' sluice mount "$registry/app:noise" "$mount"

note "a chunk under a bound recipe: dropped, fetched once more, then an error"
damage "$(file_of "$blob")" 5000000
mount_image app "$mount"
status=0
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 || status=$?
((status == 3)) || fail "expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
(($(metric sluice_chunk_verify_failures_total origin) >= 2)) || fail "the bad chunk was not counted twice"
mend "$(file_of "$blob")"
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" || fail "the mended registry's bytes are not read"
sluice umount "$mount"
sluice blob evict "$blob"

note "a blob without a recipe: served, hashed when it is whole, then refused"
manifest app | jq -c 'del(.layers[0].annotations["io.sluice.blob.root"], .layers[0].annotations["io.sluice.blob.chunk-size"],
                          .layers[0].annotations["io.sluice.blob.size"])' | put_manifest app plain
damage "$(file_of "$blob")" 5000000
refused=$(metric sluice_blobs_refused_total)
sluice mount "$registry/app:plain" "$mount"
# What the kernel has got once, it may have apart from the store.
cat "$mount/usr/lib1/part1/file1" >"$work/output" || fail "unverified bytes are not served"
mkdir "$mount.fill"
sluice mount "$registry/app:plain" "$mount.fill" --fill
blob_is_refused() { (($(metric sluice_blobs_refused_total) > refused)); }
wait_until blob_is_refused || fail "a blob that does not match its digest is served on"
drop_page_cache
cat "$mount/usr/lib1/part1/file1" >"$work/output" 2>&1 && fail "a refused blob is read"
grep -q 'Input/output error' "$work/output" || fail "the readers' error is not EIO: $(head -c 200 "$work/output")"
grep -q 'ALARM' "$node_log" || fail "no alarm was raised"
(($(sluice --output json status | jq '[.mounts[].read_errors] | add') > 0)) || fail "no error is shown: $(sluice status)"
sluice umount "$mount.fill"

note "one refused blob does not keep the node from starting"
stop_node KILL
restart_node
[[ $(sluice --output json status | jq '.mounts | length') == 1 ]] || fail "the mount was forgotten: $(sluice status)"
drop_page_cache
cat "$mount/usr/lib1/part1/file1" >"$work/output" 2>&1 && fail "a refused blob is read after a restart"

note "mended, evicted, mounted again"
mend "$(file_of "$blob")"
sluice umount "$mount"
sluice blob evict "$blob"
sluice mount "$registry/app:plain" "$mount" --fill --wait
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" || fail "wrong bytes after all"

note "compressed: a frame in the middle, the seek table, the bootstrap"
sluice umount "$mount"
head -c 8000000 /dev/zero | tr '\0' 'a' | awk '{ for (i = 1; i <= length($0); i += 40) print i, substr($0, i, 40) }' >"$work/tree/text"
push_flags=()
push_tree "$work/tree" small
[[ $(manifest small | jq -r '[.layers[].mediaType] | join(" ")') == *+zstd*+zstd ]] || fail "nothing is compressed"
blob=$(data_blob_of small)
stored=$(file_of "$(stored_blob_of small)")
for place in frame table; do
  offset=$(($(stat -c %s "$stored") / 2))
  if [[ $place == table ]]; then
    offset=$(($(stat -c %s "$stored") - 100))
    # It knows the right one.
    stop_node
    restart_node
  fi
  damage "$stored" "$offset"
  mount_image small "$mount"
  status=0
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 || status=$?
  ((status == 3)) || fail "$place: expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
  mend "$stored"
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" || fail "$place: the mended registry's bytes are not read"
  sluice umount "$mount"
  sluice blob evict "$blob"
done
bootstrap=$(file_of "$(manifest small | jq -r '.layers[-1].digest')")
sluice blob evict "$(bootstrap_of small)"
damage "$bootstrap" 200
expect_failure $exit_failed 'digest|decompress' sluice mount "$registry/small:1" "$mount"
mountpoint -q "$mount" && fail "a damaged bootstrap was mounted"
mend "$bootstrap"
mount_image small "$mount"
