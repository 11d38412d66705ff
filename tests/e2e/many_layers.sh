#!/usr/bin/env bash
# Images of as many layers as there may be and of none at all: made lazy, mounted and read.
source "$(dirname "$0")/lib.sh"

# layers FIRST LAST: layer N has the files nN and who.
layers() {
  local n
  mkdir -p "$work/layers" "$work/tree"
  for ((n = $1; n <= $2; ++n)); do
    seq "$n" "$((n + 2000))" >"$work/tree/n$n"
    echo "$n" >"$work/tree/who"
    tar --numeric-owner -C "$work/tree" -cf "$work/layers/$n.tar" "n$n" who
  done
}
# put NAME LAYER...: the ordinary image $registry/NAME:source of files in $work/layers.
put() { (cd "$work/layers" && python3 "$e2e_dir/put_image.py" "$registry" "$1:source" "${@:2}") >"$work/descriptor"; }
# shown NAME: makes it lazy and mounts it at $mount.
shown() {
  sluice image push -q "$registry/$1:source" "$registry/$1:1" >"$work/pushed"
  mount=$work/mnt/$1
  mount_image "$1" "$mount"
}
devices() { manifest "$1" | jq '.layers | length - 1'; }
# holds COUNT: the mount has the files of layers 1 to COUNT, each with its own bytes, and the last one's is the uppermost.
holds() {
  [[ $(<"$mount/who") == "$1" ]] || fail "the uppermost layer is not the last: $(<"$mount/who")"
  drop_page_cache
  (cd "$work/tree" && seq -f n%.0f "$1" | xargs sha256sum) >"$work/sums"
  (cd "$mount" && sha256sum --quiet -c "$work/sums" >&2) || fail "a layer's file is another's"
}
# layer NAME ENTRY...: see make_layer.py.
layer() { python3 "$e2e_dir/make_layer.py" "${@:2}" >"$work/layers/$1.tar"; }

layers 1 501
layer names dir empty , link to-empty to=empty , file none , file zeros zeros=100000
layer void dir d
layer one file one data=same
layer two file two data=same
mapfile -t all < <(seq -f %.0f.tar 501)
start_registry
start_node

note "130 layers"
put of130 "${all[@]::130}"
shown of130
(($(devices of130) == 130)) || fail "$(devices of130) devices"
holds 130

note "as many devices as there may be, and layers without data, which need none"
put of500 "${all[@]::499}" names.tar void.tar 500.tar
shown of500
(($(devices of500) == 500)) || fail "$(devices of500) devices"
holds 500
(($(find "$mount" -type f | wc -l) == 503)) || fail "$(find "$mount" -type f | wc -l) files"

note "one more is refused, and said why"
put of501 "${all[@]}"
expect_failure $exit_usage "of501:source: layer sha256:[0-9a-f]{64}: with it the image has more than 500 data blobs" \
  sluice image push -q "$registry/of501:source" "$registry/of501:1"

note "what has no device at all is mounted too"
put empty void.tar names.tar
put no-layer
for name in empty no-layer; do
  shown $name
  (($(devices $name) == 0)) || fail "$name has devices: $(manifest $name)"
done
[[ $(find "$work/mnt/no-layer" -mindepth 1) == "" ]] || fail "something is there: $(find "$work/mnt/no-layer")"
[[ $(cd "$work/mnt/empty" && find . -mindepth 1 | LC_ALL=C sort | paste -sd' ') == "./d ./empty ./none ./to-empty ./zeros" ]] ||
  fail "other files: $(find "$work/mnt/empty")"
cmp "$work/mnt/empty/zeros" <(head -c 100000 /dev/zero)
cmp "$work/mnt/empty/none" /dev/null

note "the same layer twice, or the same data under another name, is one device"
put twice one.tar 1.tar one.tar two.tar
shown twice
(($(devices twice) == 2)) || fail "$(devices twice) devices"
[[ $(cat "$mount/one" "$mount/two") == samesame ]] || fail "other contents"
cmp "$mount/n1" "$work/tree/n1"
