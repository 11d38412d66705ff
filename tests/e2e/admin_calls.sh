#!/usr/bin/env bash
# AdminService by whoever has buf, without the protobufs: a verify that says how far it is and is given up, a mount that
# is asked for again by its name, and what the node logs.
source "$(dirname "$0")/lib.sh"

if ! buf=$(bash "$repository_root/tests/tidy/fetch_buf.sh" 2>"$work/buf.log"); then
  [[ ${CI:-} == true ]] && fail "buf can't be had: $(<"$work/buf.log")"
  echo "SKIPPED: AdminService is NOT tried with buf, which can't be had: $(<"$work/buf.log")" >&2
  exit 77
fi
mkdir "$work/tree"
head -c 64M /dev/urandom >"$work/tree/a"
start_registry
push_tree "$work/tree" app
start_node
call() { "$buf" curl --unix-socket "$run_dir/api.sock" --protocol grpc --http2-prior-knowledge \
  --data "$2" "http://localhost/sluice.v1.AdminService/$1"; }

note "the same request, twice at once and once more, is one mount"
mkdir -p "$work/mnt/app"
mount_request="{\"reference\": \"$registry/app:1\", \"mountPoint\": \"$work/mnt/app\", \"requestId\": \"pod-1\"}"
call Mount "$mount_request" >"$work/first.json" 2>&1 & first=$!
call Mount "$mount_request" >"$work/second.json" 2>&1 & second=$!
wait "$first" || fail "the first call failed: $(<"$work/first.json")"
wait "$second" || fail "the second call failed: $(<"$work/second.json")"
call Mount "$mount_request" >"$work/third.json" 2>&1 || fail "the third call failed: $(<"$work/third.json")"
for answer in first second third; do
  [[ $(jq -r .mount.mountPoint "$work/$answer.json") == "$work/mnt/app" ]] || fail "$answer: $(<"$work/$answer.json")"
done
[[ $(sluice --output json status | jq '.mounts | length') == 1 ]] || fail "it is not one mount"
expect_failure $exit_refused 'already|not empty|mounted' sluice mount "$registry/app:1" "$work/mnt/app"
sluice mount "$registry/app:1" "$work/mnt/app" --request-id pod-1 >"$work/output" || fail "the tool's request is another one"
expect_failure $exit_usage 'request_id' sluice mount "$registry/app:1" "$work/mnt/other" --request-id pod-1

note "taken down, it is made anew"
sluice umount "$work/mnt/app"
call Mount "$mount_request" >"$work/first.json" 2>&1 || fail "the fourth call failed: $(<"$work/first.json")"
mountpoint -q "$work/mnt/app" || fail "it is not mounted"

note "a verify says how far it is, and last what it found"
cat "$work/mnt/app/a" >"$work/copy"
blob=$(data_blob_of app)
call VerifyBlob "{\"digest\": \"$blob\"}" >"$work/verify.json" 2>&1 || fail "$(<"$work/verify.json")"
(($(jq -s length "$work/verify.json") > 1)) || fail "it says nothing on its way: $(<"$work/verify.json")"
jq -es '.[-1] | .readBytes == .totalBytes and (.checkedBytes | tonumber) > 60000000 and .badChunks == null' \
  "$work/verify.json" >"$work/output" || fail "$(<"$work/verify.json")"
call VerifyBlob '{"digest": "sha256:00"}' >"$work/verify.json" 2>&1 && fail "a malformed digest is taken"
grep -q 'google.rpc.BadRequest' "$work/verify.json" || fail "the error has no details: $(<"$work/verify.json")"

note "what is logged can be changed"
[[ $(sluice log-level) == info ]] || fail "$(sluice log-level)"
[[ $(sluice log-level error) == error ]] || fail "$(sluice log-level)"
lines=$(wc -l <"$node_log")
sluice umount "$work/mnt/app"
[[ $(wc -l <"$node_log") == "$lines" ]] || fail "it logs on: $(tail -n 2 "$node_log")"
call SetLogLevel '{"level": "LOG_LEVEL_INFO"}' >"$work/level.json" 2>&1 || fail "$(<"$work/level.json")"
[[ $(jq -r .previousLevel "$work/level.json") == LOG_LEVEL_ERROR ]] || fail "$(<"$work/level.json")"
call SetLogLevel '{}' >"$work/level.json" 2>&1 && fail "no level is taken for one"
grep -q level "$work/level.json" || fail "$(<"$work/level.json")"
sluice mount "$registry/app:1" "$work/mnt/app" >"$work/output"
(($(wc -l <"$node_log") > lines)) || fail "it does not log again"
sluice umount "$work/mnt/app"
