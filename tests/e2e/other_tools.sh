#!/usr/bin/env bash
# What else handles images: skopeo copies a lazy one and changes nothing, and who can't mount it (containerd, umoci) says
# of which type it is and unpacks nothing; with the ordinary one under the same tag, that is what containerd takes.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$(dirname "$0")/lib_images.sh"
source "$(dirname "$0")/lib_containerd.sh"

# Straight from the registry; it may fail. The snapshotter works on any file system.
pull() { ctr images pull --plain-http --snapshotter native "$1"; }
snapshots() { ctr snapshots --snapshotter native ls | tail -n +2 | wc -l; }

copy() { skopeo copy -q --all --src-tls-verify=false --dest-tls-verify=false "$@"; }
hex_of() { sha256sum "$@" | cut -d' ' -f1; }
# digest_at NAME: of what the registry gives for $registry/NAME:1, a manifest or an index.
digest_at() {
  curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json' \
    "http://$registry/v2/$1/manifests/1" | hex_of
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 2000000 --files 50
tar --numeric-owner -C "$work/tree" -czf "$work/tree.gz" .
start_registry
start_node
push_ordinary ordinary "$work/tree.gz"
sluice image push -q "$registry/ordinary:1" "$registry/lazy:1" >&2
sluice image push -q --with-source "$registry/ordinary:1" "$registry/both:1" >&2

for name in lazy both; do
  note "skopeo copies $name to a registry and to folders, and it has the same digest"
  copy "docker://$registry/$name:1" "docker://$registry/copy-$name:1"
  copy "docker://$registry/$name:1" "dir:$work/$name.dir"
  copy "docker://$registry/$name:1" "oci:$work/$name.oci:1"
  copy "oci:$work/$name.oci:1" "docker://$registry/back-$name:1"
  digest=$(digest_at $name)
  [[ $(digest_at copy-$name) == "$digest" ]] || fail "another digest at the registry"
  [[ $(digest_at back-$name) == "$digest" ]] || fail "another digest on the way back"
  [[ $(hex_of "$work/$name.dir/manifest.json") == "$digest" ]] || fail "another digest in a directory"
  [[ $(jq -r '.manifests[0].digest' "$work/$name.oci/index.json") == "sha256:$digest" ]] || fail "another digest in a layout"
  mount_image "back-$name" "$work/mnt/$name"
  [[ $(checksum_of "$work/mnt/$name") == $(checksum_of "$work/tree") ]] || fail "the copy has another tree"
done

note "who can't mount it says of what type it is, and unpacks nothing"
start_containerd
expect_failure 1 'unknown type: application/vnd\.erofs\+zstd' pull "$registry/lazy:1"
grep -q 'ctr: failed to extract layer .*application/octet-stream+zstd: no processor for media-type' "$work/output" ||
  fail "containerd says something else: $(<"$work/output")"
(($(snapshots) == 0)) || fail "containerd unpacked something"
expect_failure 1 'not correct mediatype: application/octet-stream\+zstd' \
  umoci unpack --image "$work/lazy.oci:1" "$work/unpacked"

note "with both under one tag it takes the ordinary one"
pull "$registry/both:1" >"$work/output" 2>&1 || fail "containerd does not take it: $(<"$work/output")"
mkdir "$work/mnt/ordinary"
ctr images mount --snapshotter native "$registry/both:1" "$work/mnt/ordinary" >&2
diff -r --no-dereference "$work/tree" "$work/mnt/ordinary" >&2 || fail "containerd has another tree"
umount "$work/mnt/ordinary"
