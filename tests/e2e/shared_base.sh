#!/usr/bin/env bash
# Two images on one base: the base's blob is made, sent, kept and fetched once, whatever lies above it; and whoever makes
# an image, wherever, makes the same.
source "$(dirname "$0")/lib.sh"
source "$repository_root/tests/packages.sh"
source "$(dirname "$0")/lib_images.sh"

# layer NAME: the directory $work/NAME as a gzip layer $work/NAME.gz.
layer() { tar --numeric-owner --sort=name -C "$work/$1" -cf - . | gzip -n >"$work/$1.gz"; }
# The blobs that the registry keeps for a repository.
blobs_of() { find "$work/registry/docker/registry/v2/repositories/$1/_layers" -name link | wc -l; }

mkdir -p "$work/base/usr" "$work/first/opt" "$work/second/opt"
python3 "$e2e_dir/make_tree.py" "$work/base/usr" --bytes 20000000
seq 200000 >"$work/first/opt/app"
seq 100000 300000 >"$work/second/opt/app"
for name in base first second; do layer "$name"; done
start_registry
start_node
push_ordinary ordinary-first "$work/base.gz" "$work/first.gz"
push_ordinary ordinary-second "$work/base.gz" "$work/second.gz"

note "the second push sends its own layer, its bootstrap and what belongs to them"
sluice image push "$registry/ordinary-first:1" "$registry/app:1" >&2
before=$(blobs_of app)
sluice --output json image push --reuse "$registry/app:1" "$registry/ordinary-second:1" "$registry/app:2" >"$work/pushed"
[[ $(jq -c '[.blobs[].reused]' "$work/pushed") == '[true,false]' ]] || fail "not reused: $(<"$work/pushed")"
# Layer, bootstrap, configuration; recipes of the layers that have several chunks.
(($(blobs_of app) - before <= 5)) || fail "$(($(blobs_of app) - before)) blobs were sent"
first=$(manifest app | jq -r '.layers[0].digest')
[[ $first == "$(jq -r '.blobs[0].stored_digest' "$work/pushed")" ]] || fail "the base has two blobs"

note "the same into another repository: the registry takes the base from the first by itself"
sluice --output json image push --reuse "$registry/app:1" "$registry/ordinary-second:1" "$registry/other:1" >"$work/pushed"
[[ $(jq -c '[.blobs[].reused]' "$work/pushed") == '[true,false]' ]] || fail "not taken from the other repository"
note "without a word of it they are the same blobs still"
sluice --output json image push "$registry/ordinary-second:1" "$registry/third:1" >"$work/pushed-anew"
[[ $(jq -c '[.blobs[].reused]' "$work/pushed-anew") == '[false,false]' ]] || fail "reused from nowhere"
[[ $(jq -c '.digest' "$work/pushed") == "$(jq -c '.digest' "$work/pushed-anew")" ]] || fail "another image"

note "a node that has the first fetches nothing of the base for the second"
mount_image app "$work/mnt/first" --fill --wait
python3 "$e2e_dir/compare_reads.py" "$work/base/usr" "$work/mnt/first/usr" >&2
mkdir "$work/mnt/second"
before=$(metric sluice_origin_blob_bytes_total)
sluice mount "$registry/app:2" "$work/mnt/second" >&2
python3 "$e2e_dir/compare_reads.py" "$work/base/usr" "$work/mnt/second/usr" >&2
fetched=$(($(metric sluice_origin_blob_bytes_total) - before))
((fetched < 100000)) || fail "$fetched bytes were fetched for a base that is here"
cmp "$work/second/opt/app" "$work/mnt/second/opt/app"

note "whoever makes it, wherever: the same image"
# push_as NAME COMMAND...: its manifest must be that of "other".
push_as() {
  "${@:2}" "$SLUICE_BIN/sluice" image push -q "$registry/ordinary-second:1" "$registry/$1:1" >&2 || fail "$1: no push"
  [[ $(manifest "$1") == "$(manifest other)" ]] || fail "$1: another image"
}
chmod 711 "$work"
mkdir -m 1777 "$work/tmp" "$work/tmpfs"
mount -t tmpfs none "$work/tmpfs"
chmod 1777 "$work/tmpfs"
push_as umask bash -c 'umask 077; exec "$0" "$@"'
push_as locale env LC_ALL=C LANG=tr_TR.UTF-8 TZ=Asia/Kathmandu
push_as epoch env SOURCE_DATE_EPOCH=1
push_as tmpfs env "TMPDIR=$work/tmpfs"
push_as nobody setpriv --reuid=65534 --regid=65534 --clear-groups env "TMPDIR=$work/tmp" HOME=/
umount "$work/tmpfs"

note "both images under one tag: who can't mount takes the ordinary one"
sluice image push --with-source "$registry/ordinary-first:1" "$registry/both:1" >&2
mkdir "$work/mnt/both"
mount_image both "$work/mnt/both"
cmp "$work/first/opt/app" "$work/mnt/both/opt/app"
index=$(curl -fsS -H 'Accept: application/vnd.oci.image.index.v1+json' "http://$registry/v2/both/manifests/1")
[[ $(jq -r '.manifests[0].digest' <<<"$index") == sha256:$(manifest ordinary-first | sha256sum | cut -d' ' -f1) ]] ||
  fail "the first of the index is not the source: $index"
[[ $(jq -c '[.manifests[].platform["os.features"]]' <<<"$index") == '[null,["erofs"]]' ]] || fail "features: $index"
sluice image push "$registry/both:1" "$registry/again:1" >&2
[[ $(manifest again) == "$(manifest app)" ]] || fail "push takes the lazy one of the two"
expect_failure $exit_usage 'there is no source image' sluice image push --with-source "$work/first" "$registry/dir:1"
