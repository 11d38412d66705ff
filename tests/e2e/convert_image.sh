#!/usr/bin/env bash
# An ordinary image of two layers is converted: layers in order, whiteouts honoured, what tells how to run it kept; the
# same input gives the same digest; and what is mounted is what the layers say.
source "$(dirname "$0")/lib.sh"

layer() { printf '{"mediaType": "application/vnd.oci.image.layer.v1.tar%s", "digest": "%s", "size": %s}' "$1" "$(upload app "$2")" "$(stat -c %s "$2")"; }

mkdir -p "$work/lower/etc" "$work/lower/gone" "$work/lower/opaque" "$work/upper/opaque" "$work/upper/etc"
echo old >"$work/lower/etc/changed"
echo kept >"$work/lower/etc/kept"
echo secret >"$work/lower/etc/removed"
echo secret >"$work/lower/gone/file"
echo secret >"$work/lower/opaque/below"
ln "$work/lower/etc/kept" "$work/lower/etc/hardlink"
ln -s kept "$work/lower/etc/symlink"
mknod "$work/lower/etc/device" c 1 3
head -c 3000000 /dev/urandom >"$work/lower/data"
touch -d '2001-02-03 04:05:06' "$work/lower/etc/kept"
echo new >"$work/upper/etc/changed"
echo above >"$work/upper/opaque/above"
: >"$work/upper/etc/.wh.removed"
: >"$work/upper/.wh.gone"
: >"$work/upper/opaque/.wh..wh..opq"
tar -C "$work/lower" -cf "$work/lower.tar" .
tar -C "$work/upper" -czf "$work/upper.tar.gz" .

start_registry
start_node
echo '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/app"],"Env":["A=b"]},
       "rootfs":{"type":"layers","diff_ids":[]}}' >"$work/config.json"
cat >"$work/manifest.json" <<EOF
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "$(upload app "$work/config.json")",
            "size": $(stat -c %s "$work/config.json")},
 "layers": [$(layer '' "$work/lower.tar"), $(layer +gzip "$work/upper.tar.gz")]}
EOF
put_manifest app plain <"$work/manifest.json"

note "converted twice, it is the same image"
sluice image push "$registry/app:plain" "$registry/app:1" >&2
sluice image push "$registry/app:plain" "$registry/app:again" >&2
again=$(curl -fsS -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$registry/v2/app/manifests/again")
[[ $(manifest app) == "$again" ]] || fail "the same input gave two images"

note "what tells how to run it is kept"
config=$(curl -fsS "http://$registry/v2/app/blobs/$(manifest app | jq -r .config.digest)")
[[ $(jq -c '[.config.Entrypoint, .config.Env, ."os.features"]' <<<"$config") == '[["/bin/app"],["A=b"],["erofs"]]' ]] ||
  fail "the configuration has changed: $config"
[[ $(jq -c '.rootfs.diff_ids' <<<"$config") == "$(manifest app | jq -c '[.layers[] | .annotations["org.erofs.uncompressed-digest"] // .digest]')" ]] ||
  fail "the diff ids are not the plain digests: $config"

note "what is mounted is what the layers say"
mount=$work/mnt/app
mount_image app "$mount"
[[ $(find "$mount" -mindepth 1 -printf '%P\n' | sort | paste -sd' ') == \
  "data etc etc/changed etc/device etc/hardlink etc/kept etc/symlink opaque opaque/above" ]] ||
  fail "other files: $(find "$mount")"
cmp "$mount/data" "$work/lower/data" || fail "the data differs"
[[ $(cat "$mount/etc/changed" "$mount/etc/symlink" "$mount/opaque/above" | paste -sd' ') == "new kept above" ]] ||
  fail "other contents"
[[ $(stat -c '%h %Y' "$mount/etc/hardlink") == "2 $(stat -c %Y "$work/lower/etc/kept")" ]] || fail "link count or time"
[[ $(stat -c '%t:%T %F' "$mount/etc/device") == "1:3 character special file" ]] || fail "the device is lost"

note "inspect says what is in it"
[[ $(sluice --output json image inspect "$registry/app:1" | jq -c '.lazy') == true ]] || fail "inspect: not lazy"
[[ $(sluice --output json image inspect "$registry/app:plain" | jq -c '.lazy') == false ]] || fail "inspect: lazy"
