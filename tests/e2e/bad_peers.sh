#!/usr/bin/env bash
# A node among members that are none, are down, lie, or are the node itself: readers get the right bytes, from the
# registry. And what the node got with its credentials, its peers' listener denies as if it had never been heard of.
# BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"

# in_background LOG COMMAND...: a server that ends with this script.
in_background() {
  "${@:2}" >"$1" 2>"$1.err" &
}
wrong_answers() { grep -c '^wrong ' "$work/liar" || true; }
says_ready() { grep -q '^ready' "$1"; }
answers() { curl -s -o "$work/answer" "$1"; }

mkdir "$work/tree" "$work/private" "$work/www" "$work/mnt/app" "$work/mnt/private"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 24000000 --files 60
python3 "$e2e_dir/make_tree.py" "$work/private" --bytes 8000000 --files 20 --seed 7
start_registry
write_config
push_tree "$work/tree" app
push_tree "$work/private" private/app
blob=$(data_blob_of app)
size=$(data_size_of app)

peer_port=$(free_port)
# The node listens on all addresses, so the others need a port of their own.
other_port=$(free_port)
liar=127.0.0.7:$other_port
dead=127.0.0.8:$other_port
plain=127.0.0.9:$other_port
in_background "$work/liar" python3 "$e2e_dir/bad_member.py" 127.0.0.7 "$other_port" "$blob=$size"
in_background "$work/plain" python3 -m http.server --bind 127.0.0.9 --directory "$work/www" "$other_port"
wait_until says_ready "$work/liar" || fail "the liar does not listen: $(<"$work/liar.err")"
wait_until answers "http://$plain/" || fail "the plain server does not listen: $(<"$work/plain.err")"

# Itself by an address of this machine, by a name, and by one that only asking tells.
cluster="cluster:
  listen: \"0.0.0.0:$peer_port\"
  swarm: false
  members: [\"$liar\", \"$dead\", \"$plain\", \"127.0.0.1:$peer_port\", \"localhost:$peer_port\", \"127.0.0.5:$peer_port\"]"
export READ_DEADLINE=20s
# Who has no name yet is asked for what is here while the node learns who the members are, and for nothing later; a mount
# would wait for the end of that.
start_node
mount_image app "$work/mnt/app"
stop_node
start_node "$cluster"
members() { sluice --output json status | jq -r '.peers.members'; }
expected=3
finds_itself() { (($(members) == expected)); }
wait_until finds_itself || fail "$(members) members, not $expected: one of them is the node itself"

note "readers get the right bytes, from the registry, and the liar is blamed and left alone"
reads_right "$work/tree" "$work/mnt/app" || fail "the image can't be read among bad members"
# On a busy machine the registry may be faster than the liar each time, and nobody compares what came too late.
liar_is_counted() { (($(metric sluice_chunk_verify_failures_total 'source="peer"') > 0)); }
# Nor is each of them asked in each run.
all_are_told() {
  liar_is_counted && grep -q "member $liar sent wrong bytes" "$node_log" && grep -q "member $dead is not asked for" "$node_log" &&
    grep -q "member $plain is not asked for.*no Sluice node" "$node_log"
}
for ((round = 0; round < 10; ++round)); do
  ! all_are_told || break
  stop_node
  start_node
  make_cold app "$work/mnt/app"
  stop_node
  start_node "$cluster"
  reads_right "$work/tree" "$work/mnt/app" || fail "the image can't be read among bad members, round $round"
done
liar_is_counted || fail "no wrong chunk of a member was counted"
(($(metric sluice_chunk_verify_failures_total 'source="origin"') == 0)) || fail "the registry was blamed"
(($(metric sluice_read_bytes_total 'source="peer"') == 0)) || fail "a reader was served what a liar sent"
(($(metric sluice_origin_bytes_total) >= size)) || fail "the registry was not asked for all of it"
grep -q "member $liar sent wrong bytes" "$node_log" || fail "the liar is not named in the log"
grep -q "member $dead is not asked for" "$node_log" || fail "the dead member is not named in the log"
grep -q "member $plain is not asked for.*no Sluice node" "$node_log" || fail "the plain server is not named in the log"

sluice --output json peers | jq -e --arg liar "$liar" --arg plain "$plain" --arg blob "$blob" '
  (.peers | map({key: .addresses[0], value: .}) | from_entries) as $at |
  ($at | length == 3 and all(.state == "unnamed")) and
  ($at[$liar] | .wrong_answers > 0 and .skipped_for_seconds > 0 and (.blame | contains($blob))) and
  ($at[$plain] | .failures > 0)' >"$work/peers" || fail "sluice peers does not blame the liar: $(sluice peers)"

note "while it is left alone it is asked for nothing"
lies=$(wrong_answers)
((lies > 0)) || fail "the liar was never asked"
make_cold app "$work/mnt/app"
reads_right "$work/tree" "$work/mnt/app" || fail "the image can't be read a second time"
(($(wrong_answers) == lies)) || fail "the liar was asked $(($(wrong_answers) - lies)) times more"

note "what the node got with credentials is to others as if it had never been heard of"
private_manifest=$(curl -fsSI -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
  "http://$registry/v2/private/app/manifests/1" | tr -d '\r' | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p')
private_blob=$(data_blob_of private/app)
private_bootstrap=$(bootstrap_of private/app)
python3 -W ignore -c 'import crypt; print("user:" + crypt.crypt("s3cret", crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)))' \
  >"$work/htpasswd"
address=$registry
stop_registry
printf 'auth: {htpasswd: {realm: test, path: %s}}\n' "$work/htpasswd" >>"$work/registry.yml"
OTEL_TRACES_EXPORTER=none setsid docker-registry serve "$work/registry.yml" >>"$work/registry.log" 2>&1 &
registry_pid=$!
disown
wait_until answers "http://$address/v2/" || fail "the registry does not come back"
[[ $(curl -s -o "$work/answer" -w '%{http_code}' "http://$address/v2/") == 401 ]] || fail "the registry wants no password"
printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$address" "$(printf 'user:s3cret' | base64)" >"$work/docker.json"
stop_node
start_node "$cluster" "origin: {dockerConfig: \"$work/docker.json\"}"
mount_image private/app "$work/mnt/private" --fill
blob_complete() { sluice --output json blob stat "$private_blob" | jq -e '.present_bytes == .size_bytes' >/dev/null; }
wait_until blob_complete || fail "the private image is not filled"
reads_right "$work/private" "$work/mnt/private" || fail "the private image can't be read"

peer=http://127.0.0.1:$peer_port
# ask PATH [CURL ARGUMENT...]: the whole answer, head and body.
ask() { curl -s -i "${@:2}" "$peer$1"; }
unknown=sha256:$(printf 'unknown' | sha256sum | cut -d' ' -f1)
for kind in blobs manifests; do
  ask "/v2/private/app/$kind/$unknown?ns=$address" >"$work/unknown.$kind"
  grep -q '^HTTP/1.1 404 ' "$work/unknown.$kind" || fail "an unknown digest is answered: $(head -n 1 "$work/unknown.$kind")"
done
ask "/sluice/v1/recipes/$unknown" >"$work/unknown.recipes"
same() {
  ask "${@:2}" >"$work/answer"
  cmp -s "$work/answer" "$work/unknown.$1" || fail "$2 is not answered as if it were unknown: $(head -n 20 "$work/answer")"
}
same manifests "/v2/private/app/manifests/$private_manifest?ns=$address"
same blobs "/v2/private/app/blobs/$private_blob?ns=$address"
same blobs "/v2/private/app/blobs/$private_blob?ns=$address" -H 'Range: bytes=0-0'
same blobs "/v2/private/app/blobs/$private_blob?ns=$address" -H 'Range: bytes=999999999999-'
same blobs "/v2/private/app/blobs/$private_blob?ns=$address" -H "Authorization: Basic $(printf 'user:s3cret' | base64)"
same blobs "/v2/private/app/blobs/$private_bootstrap?ns=$address"
same blobs "/v2/app/blobs/$private_blob?ns=$address"
same recipes "/sluice/v1/recipes/$private_blob"
same recipes "/sluice/v1/recipes/$private_bootstrap"
# What was public when it was got still is; without this the rest would prove little.
ask "/v2/app/blobs/$blob?ns=$address" -H 'Range: bytes=0-99' >"$work/answer"
grep -aq '^HTTP/1.1 206 ' "$work/answer" || fail "the public blob is not given: $(head -n 1 "$work/answer")"
same blobs "/v2/private/app/blobs/$blob?ns=$address"
! grep -q 's3cret\|dXNlcjpzM2NyZXQ' "$node_log" || fail "the password is in the log"
echo "$lies wrong answers refused; private content denied"
