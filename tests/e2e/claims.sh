#!/usr/bin/env bash
# What one repository claims of a blob neither breaks nor poisons what another's readers get of the same digest: forged
# roots and chunk sizes are mounted beside the right ones, a registry that lies is read by its own readers alone, and all
# of that holds after a restart. Once the whole digest was hashed, the right bytes are everybody's.
source "$(dirname "$0")/lib.sh"

reads() { python3 "$e2e_dir/compare_reads.py" "$work/tree" "$work/mnt/$1" "${@:2}"; }
expect_right() { reads "$@" >&2 || fail "$1 does not read right"; }

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 12000000
start_registry
# A compressed blob without a root is no image, and these are about what is plain.
push_flags=(--compression none)
push_tree "$work/tree" app
push_tree "$work/tree" other
blob=$(data_blob_of app)
[[ $blob == "$(data_blob_of other)" ]] || fail "the same tree gave two blobs"

note "manifests of another repository that say something else of the same digest"
forge() { manifest other | jq -c "$2" | put_manifest other "$1"; }
forge root '.layers[0].annotations["io.sluice.blob.root"] = ("ab" * 32)'
forge chunk '.layers[0].annotations["io.sluice.blob.chunk-size"] = "65536"'
forge bare 'del(.layers[0].annotations["io.sluice.blob.root"])'

note "a registry that has the same blob, and lies"
cp -r "$work/registry" "$work/liar"
liar_blob=$work/liar/docker/registry/v2/blobs/sha256/${blob:7:2}/${blob:7}/data
python3 - "$liar_blob" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    there = f.read()
    f.seek(0)
    f.write(bytes(b ^ 0x55 for b in there))
PY
sed "s|rootdirectory: .*}}|rootdirectory: $work/liar}}|; s|addr: .*|addr: \"127.0.0.1:$(free_port)\"}|" "$work/registry.yml" \
  >"$work/liar.yml"
: >"$work/liar.log"
OTEL_TRACES_EXPORTER=none setsid docker-registry serve "$work/liar.yml" >>"$work/liar.log" 2>&1 &
liar_pid=$!
disown
trap 'status=$?; end_process "$liar_pid" KILL; cleanup "$status"' EXIT
liar_listens() {
  liar=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/liar.log" | tail -n 1)
  [[ -n $liar ]]
}
wait_until liar_listens || fail "the second registry does not listen"

write_config
sed -i "s|allow: .*|allow: [\"127.0.0.1:*/*\"]|" "$config"
restart_node
mount_at() {
  mkdir -p "$work/mnt/$2"
  sluice mount "$1" "$work/mnt/$2" "${@:3}" >&2
}

note "the liar first, and read"
mount_at "$liar/other:bare" liar
status=0
reads liar >"$work/compare.log" 2>&1 || status=$?
((status == 1)) || fail "the liar's bytes are not read by its own readers: the test shows nothing"
note "then forged ones, then the right one: nobody reads what another repository gave"
for tag in root chunk bare; do
  mount_at "$registry/other:$tag" "$tag"
done
mount_image app "$work/mnt/app"
expect_right app
for tag in root chunk bare; do expect_right "$tag"; done
sluice blob ls >&2
(($(sluice --output json blob ls | jq "[.blobs[] | select(.digest == \"$blob\")] | length") >= 4)) ||
  fail "the claims are not kept apart"

note "the same after the node was killed, and after it was stopped"
for signal in KILL TERM; do
  stop_node "$signal"
  restart_node
  drop_page_cache
  expect_right app --seed 2
  for tag in root chunk bare; do expect_right "$tag" --seed 2; done
done

note "whole: the liar's is refused, the right bytes are everybody's"
is_refused() { grep -q "the file of blob $blob as .* has the digest\|the file of blob $blob has the digest" "$work/sluiced.log"; }
wait_until is_refused || fail "nobody has noticed that the liar's bytes are not the digest's"
expect_right app --seed 3
for tag in root chunk bare liar; do sluice umount "$work/mnt/$tag" >&2; done
before=$(metric sluice_origin_blob_bytes_total)
is_settled() { sluice --output json blob stat "$blob" | jq -e '.unverified_chunks == 0 and .refused == false' >/dev/null; }
wait_until is_settled || fail "the right claim is not settled"
mount_at "$registry/other:root" root
expect_right root --seed 4
# But for the sample by which a repository shows that it gives the blob to this node.
(($(metric sluice_origin_blob_bytes_total) <= before + 4096)) || fail "what this node has proven was fetched again"

note "a repository that names the digest and does not have the blob: no mount, though the bytes are here"
push_tree "$work/tree" thief
for digest in "$blob" "$(bootstrap_of app)"; do
  rm -r "$work/registry/docker/registry/v2/repositories/thief/_layers/sha256/${digest:7}"
done
expect_failure $exit_not_found 'from another repository, and .*/thief does not give it' \
  sluice mount "$registry/thief:1" "$work/mnt/bare"
(($(sluice --output json blob ls | jq '[.blobs[].origins[] | select(.repository == "thief")] | length') == 0)) ||
  fail "who gave nothing is among the origins"
# Nor does it help to answer with something.
expect_failure $exit_refused 'other bytes' sluice mount "$liar/other:bare" "$work/mnt/liar"
sluice umount "$work/mnt/root" >&2
mount_at "$registry/other:root" root

note "what no manifest vouched for has a recipe of this node's own: a chunk that the disk spoils is fetched again for all"
sluice umount "$work/mnt/root" >&2
sluice umount "$work/mnt/app" >&2
sluice blob evict "$blob" >&2
expect_failure $exit_not_found 'not in the store' sluice blob stat "$blob"
mount_at "$registry/other:bare" bare --fill
is_whole() { sluice --output json blob stat "$blob" | jq -e '.recipe_bound and .unverified_chunks == 0' >/dev/null; }
wait_until is_whole || fail "the blob has no recipe of the node's own: $(sluice --output json blob stat "$blob")"
mount_image app "$work/mnt/app"
(($(sluice --output json blob ls | jq "[.blobs[] | select(.digest == \"$blob\")] | length") == 1)) ||
  fail "what is proven is not shared"
printf 'spoilt' | dd of="$data_dir/blobs/${blob:7}" bs=1 seek=5000000 conv=notrunc status=none
expect_failure $exit_failed '1 bad' sluice blob verify "$blob"
drop_page_cache
expect_right app --seed 5
expect_right bare --seed 5
