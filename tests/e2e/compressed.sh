#!/usr/bin/env bash
# Images whose blobs lie compressed at the registry: the same tree comes out of fewer bytes on the wire, after a restart
# too, and shared with the plain image and with another repository; what lies is an error for whoever reads it, and for
# nobody else.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 12000000 --files 100 --hex
start_registry
start_node
sluice image push --compression none "$work/tree" "$registry/plain:1" >&2
size=$(manifest plain | jq '.layers[0].size')
blob=$(data_blob_of plain)
bootstrap=$(bootstrap_of plain)
mount=$work/mnt/app
mkdir "$mount"

# compress TAG [OPTION...]: $registry/app:TAG is the image plain:1 with its blobs compressed.
compress() { python3 "$e2e_dir/compress_image.py" "$registry" plain 1 "$1" --to app "${@:2}" >"$work/stored"; }

# forget: nothing of the image is here any more.
forget() {
  if mountpoint -q "$mount"; then sluice umount "$mount" >&2; fi
  for digest in "$blob" "$bootstrap"; do
    [[ $(sluice --output json blob ls | jq --arg d "$digest" '[.blobs[] | select(.digest == $d)] | length') == 0 ]] ||
      sluice blob evict "$digest" >&2
  done
  drop_page_cache
}

note "little is fetched for a little read"
compress z
sluice mount "$registry/app:z" "$mount" >&2
drop_page_cache
head -c 4096 "$mount/usr/lib1/part1/file1" | cmp - <(head -c 4096 "$work/tree/usr/lib1/part1/file1") || fail "wrong bytes"
fetched=$(metric sluice_origin_bytes_total)
((fetched > 0 && fetched < size / 4)) || fail "$fetched of $size bytes fetched for 4 KiB"

note "it is named by what is stored too"
stored=$(head -n 1 "$work/stored")
[[ $stored != "$blob" ]] || fail "nothing was compressed"
[[ $(sluice --output json blob stat "$stored" | jq -r '.digest') == "$blob" ]] || fail "the stored digest names no blob"
[[ $(sluice --output json blob stat "$blob" | jq -r '.origins[0].stored_digest') == "$stored" ]] ||
  fail "the blob's stored digest is not told"
[[ $(sluice --output json image inspect "$registry/app:z" | jq -c '.blobs[0] | [.digest, .stored_digest]') == \
  "[\"$blob\",\"$stored\"]" ]] || fail "inspect does not tell both digests"
sluice blob verify "$stored" 2>"$work/output" >&2 || fail "the blob does not verify by its stored digest"
grep -q "$stored is what a registry keeps of blob $blob" "$work/output" || fail "which blob is meant is not said"

note "it lives on after a restart, and finds the rest"
stop_node KILL
restart_node
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs from the pushed one"

note "the wire carries little more than half of what comes out"
wire=$(metric sluice_origin_blob_bytes_total)
plain=$(metric sluice_origin_plain_bytes_total)
((plain > size / 2 && wire < plain * 65 / 100)) || fail "$wire bytes on the wire for $plain plain ones"

note "nothing is fetched twice, and the blob proves itself"
drop_page_cache
stop_registry
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" || fail "a warm read needs the registry"
sluice blob verify "$blob" || fail "the blob does not verify"
start_registry "$registry"

note "another repository that gives it shares what is here"
python3 "$e2e_dir/compress_image.py" "$registry" plain 1 1 --to other --level 9 >"$work/stored"
before=$(metric sluice_origin_bytes_total)
mount_image other "$work/mnt/other"
[[ $(checksum_of "$work/mnt/other") == $(checksum_of "$work/tree") ]] || fail "the other repository's tree differs"
(($(metric sluice_origin_bytes_total) - before < size / 4)) || fail "the other repository's blob was fetched anew"
[[ $(sluice --output json status | jq '[.mounts[].blobs[0].digest] | unique | length') == 1 ]] ||
  fail "the blob is here twice"
sluice umount "$work/mnt/other"

note "one that does not give it shares nothing"
layers=$(curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/other/manifests/1")
stored=$work/registry/docker/registry/v2/repositories/other/_layers
for digest in $(jq -r '.layers[].digest' <<<"$layers"); do rm -r "$stored/sha256/${digest#*:}"; done
forget
mount_image plain "$mount"
expect_failure $exit_not_found 'does not give it' sluice mount "$registry/other:1" "$work/mnt/other"

# lies KIND: the image's second chunk lies in that way; all but its readers read on.
lies() {
  local status=0
  forget
  compress "$1" --lie "$1" --chunk 1
  sluice mount "$registry/app:$1" "$mount" >&2
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 || status=$?
  ((status == 3)) || fail "$1: expected errors and nothing wrong: $(tail -n 5 "$work/compare.log")"
}

for kind in size trailing cut two window noise bytes; do
  note "a frame that lies: $kind"
  failures=$(metric sluice_chunk_verify_failures_total origin)
  lies "$kind"
  [[ $(sluice --output json blob stat "$blob" | jq '(.size_bytes - .present_bytes) / .chunk_size_bytes') == 1 ]] ||
    fail "$kind: others than the lying chunk are missing: $(sluice --output json blob stat "$blob")"
  (($(metric sluice_chunk_verify_failures_total origin) - failures >= 2)) || fail "$kind: it was not counted twice"
done

for kind in count size plain past noise; do
  note "a seek table that lies: $kind"
  lies "table-$kind"
  (($(sluice --output json blob stat "$blob" | jq .present_bytes) == 0)) || fail "$kind: something was believed"
  grep -q 'seek table of blob' "$node_log" || fail "nothing is said of it"
done

for kind in cut noise bytes; do
  note "a bootstrap that lies: $kind"
  forget
  compress "b$kind" --lie "bootstrap-$kind"
  expect_failure $exit_failed 'zstd frame|digest' sluice mount "$registry/app:b$kind" "$mount"
  mountpoint -q "$mount" && fail "a bootstrap that lies was mounted"
  # Nothing of it is left to fail the next one.
  sluice mount "$registry/app:z" "$mount" >&2
  sluice umount "$mount" >&2
done

note "what image push makes is read so"
forget
sluice image push "$work/tree" "$registry/own:1" >&2
[[ $(manifest own | jq -r '.layers[].mediaType' | paste -sd' ') == \
  "application/octet-stream+zstd application/vnd.erofs+zstd" ]] || fail "other layers: $(manifest own)"
before=$(metric sluice_origin_blob_bytes_total)
mount_image own "$mount"
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs from the pushed one"
(($(metric sluice_origin_blob_bytes_total) - before < size * 65 / 100)) || fail "it was fetched as if it were plain"

note "and the honest image is as it was"
forget
sluice mount "$registry/app:z" "$mount" >&2
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the mounted tree differs from the pushed one"
sluice umount "$mount"
