#!/usr/bin/env bash
# Mounts that can't be: each is refused with a message that says why, and leaves nothing mounted.
source "$(dirname "$0")/lib.sh"

# An ordinary image, as any builder makes it: a layer that is a compressed tar.
push_ordinary_image() {
  local config layer
  echo '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >"$work/config.json"
  tar -C "$work/tree" -czf "$work/layer.tar.gz" etc
  config=$(upload ordinary "$work/config.json")
  layer=$(upload ordinary "$work/layer.tar.gz")
  cat >"$work/manifest.json" <<END
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "$config",
            "size": $(stat -c %s "$work/config.json")},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "$layer",
             "size": $(stat -c %s "$work/layer.tar.gz")}]}
END
  put_manifest ordinary 1 <"$work/manifest.json"
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 4000000 --files 20
start_registry
start_node
push_tree "$work/tree" app
push_ordinary_image
mount=$work/mnt/app
mkdir "$mount"

note "references"
expect_failure $exit_not_found 'missing:1.*(not found|unknown|no such)|(not found|unknown|no such).*missing:1' \
  sluice mount "$registry/missing:1" "$mount"
expect_failure $exit_refused 'not allowed|allow' sluice mount "registry.example:5000/app:1" "$mount"
expect_failure $exit_usage 'reference' sluice mount "$registry/UPPER CASE" "$mount"
expect_failure $exit_refused 'ordinary image' sluice mount "$registry/ordinary:1" "$mount"
mountpoint -q "$mount" && fail "a refused mount was made"

note "mount points"
expect_failure $exit_not_found 'no such|not exist|missing|not found' sluice mount "$registry/app:1" "$work/mnt/nowhere"
touch "$work/mnt/file"
expect_failure $exit_refused 'not a directory' sluice mount "$registry/app:1" "$work/mnt/file"
mkdir -p "$work/mnt/full/inside"
expect_failure $exit_refused 'not empty' sluice mount "$registry/app:1" "$work/mnt/full"
sluice mount "$registry/app:1" "$mount"
expect_failure $exit_refused 'already|mounted' sluice mount "$registry/app:1" "$mount"

note "a mount point's name of two lines"
lines="$work/mnt/two
lines"
mkdir "$lines"
sluice mount "$registry/app:1" "$lines" >"$work/output"
sluice status >>"$work/output"
[[ $(grep -c 'two\\x0alines' "$work/output") == 2 ]] || fail "its name breaks a table's lines: $(<"$work/output")"
[[ $(sluice --output json status | jq -r --arg point "$lines" '.mounts[] | select(.mount_point == $point).mount_point') == "$lines" ]] ||
  fail "it has another name in JSON"
sluice umount "$lines"
grep -q 'mounted .*two\\x0alines$' "$node_log" || fail "it breaks a line of the log: $(<"$node_log")"

note "unmounting"
expect_failure $exit_not_found 'not mounted|nothing|no mount|not found' sluice umount "$work/mnt/full"
(cd "$mount" && exec sleep 60) &
in_use=$!
mount_is_busy() { [[ $(readlink "/proc/$in_use/cwd") == "$mount" ]]; }
wait_until mount_is_busy
expect_failure $exit_refused 'busy' sluice umount "$mount"
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "a busy mount that was not unmounted is broken"
kill "$in_use"
wait "$in_use" || true
sluice umount "$mount"
[[ $(sluice --output json status | jq '.mounts | length') == 0 ]] || fail "mounts are left: $(sluice status)"
