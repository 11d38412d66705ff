#!/usr/bin/env bash
# Ordinary images as people have them, made lazy by the tool and mounted: what other tools stumble over comes out as the
# layers say, what can't be is refused before it costs anything, and what is left out is said.
source "$(dirname "$0")/lib.sh"
export LC_ALL=C  # names are bytes here

# layer FILE ENTRY...: see make_layer.py.
layer() { python3 "$e2e_dir/make_layer.py" "${@:2}" >"$work/$1"; }
# put NAME [OPTION...] LAYER...: the ordinary image $registry/NAME:source, see put_image.py.
put() { (cd "$work" && python3 "$e2e_dir/put_image.py" "$registry" "$1:source" "${@:2}") >"$work/descriptor"; }
# push NAME [OPTION...]: makes it lazy, as $registry/lazy-NAME:1.
push() { sluice image push -q "${@:2}" "$registry/$1:source" "$registry/lazy-$1:1" >"$work/pushed" 2>"$work/said"; }
# shown NAME [OPTION...]: makes it lazy and mounts it at $mount.
shown() {
  push "$@" || fail "$1 is refused: $(<"$work/said")"
  mount=$work/mnt/$1
  mount_image "lazy-$1" "$mount"
}
# pushes_badly CODE NAME [OPTION VALUE] PATTERN...: it is refused, what it says fits each pattern, and no blob was sent.
pushes_badly() {
  local code=$1 name=$2 options=() pattern sent
  shift 2
  if [[ $1 == --* ]]; then options=("$1" "$2") && shift 2; fi
  expect_failure "$code" "$1" sluice image push -q "${options[@]}" "$registry/$name:source" "$registry/lazy-$name:1"
  for pattern in "${@:2}"; do
    grep -Eiq -- "$pattern" "$work/output" || fail "$name: it should say '$pattern': $(<"$work/output")"
  done
  sent=$(find "$work/registry/docker/registry/v2/repositories/lazy-$name" -path '*/_layers/*' 2>/dev/null || true)
  [[ -z $sent ]] || fail "$name: something was sent: $sent"
}
# has NAME...: these and no others are in $mount.
has() {
  local names right
  names=$(find "$mount" -mindepth 1 -printf '%P\n' | sort)
  right=$(printf '%s\n' "$@" | sort)
  [[ $names == "$right" ]] || fail "$mount has $(printf %q "$names") and not $(printf %q "$right")"
}
# put_index NAME DESCRIPTOR...
put_index() {
  printf '%s\n' "${@:2}" |
    jq -sc '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' >"$work/index"
  curl -fsS -o "$work/upload" -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
    --data-binary @"$work/index" "http://$registry/v2/$1/manifests/source"
}

start_registry
start_node

note "directories that no layer names, and times, are nobody's who happens to push"
layer a.tar file etc/a mtime=500000000 , file usr/bin/x mtime=1600000000 , dir opt mtime=1600000000
put who a.tar
(umask 077 && SOURCE_DATE_EPOCH=1000000000 push who) || fail "no push: $(<"$work/said")"
mount_image lazy-who "$work/mnt/who"
[[ $(cd "$work/mnt/who" && stat -c %a . etc usr usr/bin | paste -sd' ') == "755 755 755 755" ]] || fail "other modes"
[[ $(cd "$work/mnt/who" && stat -c %Y etc/a usr/bin/x opt | paste -sd' ') == "500000000 1600000000 1600000000" ]] ||
  fail "other times"

note "of an index the best image is taken, not the first"
# entry PLATFORM [FILTER]: the descriptor of an image whose file who says which one it is.
entry() {
  layer "who.tar" file who "data=$1"
  put variants --platform "$1" who.tar
  jq -c "${2:-.}" "$work/descriptor"
}
put_index variants "$(entry linux/amd64/v3)" "$(entry linux/amd64)" "$(entry linux/arm/v5)" "$(entry linux/arm/v6)" \
  "$(entry linux/arm64)"
while read -r asked right; do
  shown variants --platform "$asked"
  [[ $(<"$mount/who") == "$right" ]] || fail "$asked: $(<"$mount/who") was taken"
  sluice umount "$mount" >&2
done <<'END'
linux/amd64 linux/amd64
linux/amd64/v2 linux/amd64
linux/amd64/v4 linux/amd64/v3
linux/arm/v7 linux/arm/v6
linux/arm64/v8 linux/arm64
END

note "an index in an index is opened, whether its entry has a platform or not"
for filter in . 'del(.platform)'; do
  put_index variants "$(entry linux/amd64 "$filter")"
  inner=$(jq -nc --arg digest "sha256:$(sha256sum <"$work/index" | cut -d' ' -f1)" --argjson size "$(stat -c %s "$work/index")" \
    '{mediaType: "application/vnd.oci.image.index.v1+json", digest: $digest, size: $size,
      platform: {os: "linux", architecture: "amd64"}}')
  put_index variants "$(jq -c "$filter" <<<"$inner")"
  shown variants --platform linux/amd64
  [[ $(<"$mount/who") == linux/amd64 ]] || fail "another image"
  sluice umount "$mount" >&2
done

note "layers of every type that a tar archive has had"
layer a.tar file a data=hello
layer b.tar file b data=hello
layer c.tar file c data=hello
gzip -nk "$work"/[abc].tar
zstd -qk "$work"/[abc].tar
docker=application/vnd.docker.image.rootfs
oci=application/vnd.oci.image.layer.nondistributable.v1.tar
put docker --docker "a.tar=$docker.diff.tar" "b.tar.zst=$docker.diff.tar.zstd" "c.tar.gz=$docker.diff.tar.gzip"
# docker-registry wants an address of what is foreign in a manifest of docker's.
put foreign "a.tar=$oci" "b.tar.gz=$oci+gzip" "c.tar.zst=$oci+zstd" "a.tar.gz=$docker.foreign.diff.tar.gzip"
for name in docker foreign; do
  shown $name
  has a b c
  [[ $(cat "$mount/a" "$mount/b" "$mount/c") == hellohellohello ]] || fail "$name: other contents"
done
put deb "a.tar=application/vnd.debian.binary-package"
pushes_badly $exit_usage deb 'application/vnd.debian.binary-package' "$registry/deb:source" 'layer sha256:'

note "a configuration that can't be is found before anything is fetched"
echo hello >"$work/text"
echo '{"os": 1, "architecture": "amd64"}' >"$work/number"
for name in text number; do
  put $name --config $name a.tar
  # Who asks for the layer gets 404.
  rm -r "$work/registry/docker/registry/v2/repositories/$name/_layers/sha256/$(sha256sum "$work/a.tar" | cut -d' ' -f1)"
  pushes_badly $exit_usage $name 'configuration' "$registry/$name:source"
done

note "what is not needed of a configuration is not asked for"
printf '{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha512:%0128d"]}}' 0 >"$work/sha512"
printf '{"os": "linux", "architecture": "amd64", "config": {"Labels": {"a": "caf\xe9"}},
         "rootfs": {"type": "layers", "diff_ids": []}}' >"$work/latin1"
for name in sha512 latin1; do
  put $name --config $name a.tar
  shown $name
  has a
done

note "what is left out is said, to people and to programs"
layer a.tar file a data=hello pax.SCHILY.xattr.com.apple.provenance=x pax.SCHILY.xattr.user.kept=y , \
  file b pax.LIBARCHIVE.xattr.com.apple.quarantine=AQID , file c pax.SCHILY.xattr.system.nfs4_acl=v , \
  dir d pax.SCHILY.xattr.trusted.overlay.opaque=y , file .wh..wh.plnk/1.2
put notices a.tar
shown notices --platform linux/amd64
has a b c d
python3 -c 'import os, sys; sys.exit(any(set(os.listxattr(n)) - {"user.kept"} for n in sys.argv[1:]))' "$mount"/[abcd] ||
  fail "what was left out is there"
for said in '3 extended attributes of namespaces.*"a".*com\.apple\.provenance' '1 extended.*overlay.*"d"' \
  '1 entries under reserved names.*plnk'; do
  grep -Eq "^sluice: $registry/notices:source: $said" "$work/said" || fail "'$said' is not said: $(<"$work/said")"
done
(($(wc -l <"$work/said") == 3)) || fail "more is said: $(<"$work/said")"
sluice --output json image push -q "$registry/notices:source" "$registry/lazy-notices:json" >"$work/json" 2>"$work/again"
cmp "$work/said" "$work/again" || fail "JSON or not, other notices"
[[ $(jq -r --arg from "sluice: $registry/notices:source: " '.notices[] | $from + .' "$work/json") == $(<"$work/said") ]] ||
  fail "other notices in JSON: $(<"$work/json")"

note "an owner that no file system can hold is refused, with image, layer and entry"
for owner in uid=4294967295 uid=4294967296 uid=4294968296 gid=4294967295 gid=4294967296; do
  name=owner-${owner/=/-}
  layer $name.tar file fine , file etc/wrong mode=4755 "pax.$owner"
  put "$name" $name.tar
  pushes_badly $exit_usage "$name" "$registry/$name:source" "layer sha256:$(sha256sum "$work/$name.tar" | cut -d' ' -f1)" \
    'etc/wrong' "${owner#*=}"
done
layer fits.tar file a pax.uid=4294967294 pax.gid=2147483648
put fits fits.tar
shown fits
[[ $(stat -c %u:%g "$mount/a") == 4294967294:2147483648 ]] || fail "another owner"

note "names of 255 bytes, of files, directories and links, in an image and in a folder"
long=$(printf %0255d 1)
accents=$(printf '\xc3\xa9%.0s' {1..127})x
layer long.tar file "x" "pax.path=$long" , file x "pax.path=d${long:1}/x" , link x to=x "pax.path=l${long:1}" , \
  file x "pax.path=$accents"
put long long.tar
shown long
has "$long" "d${long:1}" "d${long:1}/x" "l${long:1}" "$accents"
mkdir "$work/folder"
: >"$work/folder/$long"
sluice image push -q "$work/folder" "$registry/folder:1" >&2
mount=$work/mnt/folder
mount_image folder "$mount"
has "$long"
layer longer.tar file x "pax.path=0$long"
put longer longer.tar
pushes_badly $exit_usage longer "$registry/longer:source: layer sha256:" '256 bytes, 255'

note "names are bytes, UTF-8 or not, composed or not"
layer low.tar file $'c\xc3\xa9' data=kept , file $'ce\xcc\x81' data=gone , file x data=one $'pax.path=e\xcc\x81' , \
  file x data=two $'pax.path=\xc3\xa9' , file x $'pax.path=\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab' , \
  file x data=latin $'pax.path=caf\xe9'
layer high.tar file x $'pax.path=.wh.ce\xcc\x81' , link soft to=q $'pax.linkpath=e\xcc\x81' , \
  link latin to=q $'pax.linkpath=caf\xe9' , hard hard to=q $'pax.linkpath=e\xcc\x81' , \
  hard latin-hard to=q $'pax.linkpath=caf\xe9'
put names low.tar high.tar
shown names
has $'c\xc3\xa9' $'e\xcc\x81' $'\xc3\xa9' $'\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab' $'caf\xe9' soft latin hard latin-hard
[[ $(cd "$mount" && cat $'c\xc3\xa9' hard $'\xc3\xa9' soft latin latin-hard) == keptonetwoonelatinlatin ]] ||
  fail "names were mixed up"
[[ $(readlink "$mount/soft") == $'e\xcc\x81' && $(readlink "$mount/latin") == $'caf\xe9' ]] || fail "other targets"

note "an archive may lack its end, and its last file's padding, but no byte of a file"
layer no-end.tar file a data=first , file b data=hello --end 0
layer some.tar file c data=hello --end 95
layer block.tar file d data=hello --end 1019
gzip -nk "$work/no-end.tar"
put ends no-end.tar.gz no-end.tar some.tar block.tar a.tar.gz
shown ends
has a b c d
[[ $(cat "$mount/b" "$mount/c" "$mount/d") == hellohellohello ]] || fail "other contents"
head -c -2 "$work/no-end.tar" >"$work/cut.tar"
head -c 1324 "$work/no-end.tar" >"$work/header.tar"
for name in cut header; do
  put $name $name.tar
  pushes_badly $exit_usage $name "$registry/$name:source: layer sha256:$(sha256sum "$work/$name.tar" | cut -d' ' -f1)" 'end|cut|short|truncat'
done

note "a parent may be a link to what is not there yet"
layer low.tar link lib to=usr/lib , dir var , link var/run to=/run , link a to=b , link b to=c/d , file lib/same
layer high.tar file lib/b , file var/run/app/pid , file a/x
put parents low.tar high.tar
shown parents
has a b c c/d c/d/x lib run run/app run/app/pid usr usr/lib usr/lib/b usr/lib/same var var/run
[[ $(cd "$mount" && readlink lib var/run a b | paste -sd' ') == "usr/lib /run b c/d" ]] || fail "a link was replaced"

note "a large file may come first, and an option says how far a layer may unpack"
size=$((1100 << 20))
python3 "$e2e_dir/make_layer.py" file model zeros=$size noise=8000000 | zstd -q >"$work/model.zst"
put model model.zst
pushes_badly $exit_failed model --unpack-ratio-max 100 "$registry/model:source: layer sha256:" '"model": the layer unpacks to more' 'unpack-ratio-max'
shown model
[[ $(stat -c %s "$mount/model") == $((size + 8000000)) ]] || fail "another size"
cmp -n 1000000 "$mount/model" /dev/zero
cmp <(tail -c 8000000 "$mount/model") <(python3 "$e2e_dir/make_layer.py" file x noise=8000000 --end 0 | tail -c +513)
