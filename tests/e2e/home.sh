#!/usr/bin/env bash
# A node is asked as the home of an image's blob that it never heard of: what it gets from the registry for the first
# asker it gives to all, and reads itself when it mounts the image. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000 --files 50
# Of what shrinks as much, so that the registry keeps the blob compressed.
seq 1 1200000 >"$work/tree/numbers"
start_registry
use_node 1
write_config
push_tree "$work/tree" app
blob=$(data_blob_of app)
size=$(data_size_of app)
chunk=262144
chunks=$(((size + chunk - 1) / chunk))
claim=$(manifest app | jq -r '.layers[0] | .annotations as $a |
  "size=\($a["io.sluice.blob.size"]); chunk=\($a["io.sluice.blob.chunk-size"]); root=sha256:\($a["io.sluice.blob.root"]); " +
  "public=1; enc=zstd-seekable; wire=\(.digest); wire-size=\(.size); table=\($a["io.sluice.blob.seek-table"])"')
stored_size=$(manifest app | jq '.layers[0].size')
download_plain app 0 "$work/plain"
[[ $(sha256sum <"$work/plain") == "${blob#sha256:}  -" ]] || fail "the plain blob is not what the manifest says"
start_member 1 2

# ask CHUNK FILE [HEADER...]: as another node asks the home of that chunk; prints the final status.
ask() {
  local headers=() header
  for header in "${@:3}"; do headers+=(-H "$header"); done
  curl -s -o "$2" -w '%{http_code}' -H 'Sluice-Role: home' -H "Sluice-Blob: $claim" -H 'Sluice-Class: fill' \
    -H "Range: bytes=$(($1 * chunk))-$((($1 + 1) * chunk - 1))" "${headers[@]}" \
    "http://$(peer_address 1)/v2/app/blobs/$blob?ns=$registry"
}
# fetch CHUNK FILE: comes again as long as the home says that it is busy.
fetch() {
  local status
  until status=$(ask "$1" "$2") && [[ $status != 503 ]]; do sleep 0.0$((RANDOM % 5 + 1)); done
  [[ $status == 206 ]] || fail "chunk $1 was answered $status: $(head -c 300 "$2")"
}
# fetch_all NUMBER: the whole blob, from another chunk on than the other askers.
fetch_all() {
  local i c
  for ((i = 0; i < chunks; ++i)); do
    c=$(((i + $1 * 17) % chunks))
    fetch $c "$work/asker$1.$c"
    dd if="$work/asker$1.$c" of="$work/asker$1" bs=$chunk seek=$c conv=notrunc status=none
    rm "$work/asker$1.$c"
  done
}

note "six askers get every byte, and the registry is asked for each once"
pids=()
for asker in 1 2 3 4 5 6; do
  fetch_all $asker &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "an asker failed"; done
for asker in 1 2 3 4 5 6; do
  cmp "$work/plain" "$work/asker$asker" || fail "asker $asker got wrong bytes"
done
fetched=$(metric sluice_origin_blob_bytes_total)
((fetched <= stored_size)) || fail "$fetched bytes came from the registry, which has $stored_size of the blob"
served=$(metric sluice_peer_requests_total 'role="home",result="served"')
((served == 6 * chunks)) || fail "$served chunks are counted as served, not $((6 * chunks))"

note "who lies about the size is contradicted, who talks nonsense refused"
true_claim=$claim
claim=${claim/size=$size/size=$((size - 1))}
[[ $(ask 0 "$work/answer") == 409 ]] || fail "a wrong size was answered: $(<"$work/answer")"
claim='size=many'
[[ $(ask 0 "$work/answer") == 400 ]] || fail "nonsense was answered: $(<"$work/answer")"
claim=$true_claim
[[ $(ask 0 "$work/answer") == 206 ]] || fail "the right claim is answered no more"

note "the node reads what it got for others when it mounts the image itself"
mount_image app "$work/node1/mnt"
reads_right "$work/tree" "$work/node1/mnt" || fail "the node can't read the image"
again=$(metric sluice_origin_blob_bytes_total)
bootstrap=$(manifest app | jq '.layers[-1].size')
((again <= fetched + bootstrap)) || fail "$((again - fetched)) bytes more came from the registry, $bootstrap are the bootstrap's"
echo "$fetched bytes from the registry for six askers of $size, $((again - fetched)) more for the node's own mount"
