#!/usr/bin/env bash
# A hint fills an image before it is mounted, whoever gives it, and the mount then asks the registry for no byte of it;
# a hint is idempotent, can be cancelled half-way, is refused what is not allowed, and outlives the node while it waits.
source "$(dirname "$0")/lib.sh"

for tree in cli python slow; do
  mkdir "$work/$tree"
  python3 "$e2e_dir/make_tree.py" "$work/$tree" --bytes 24000000 --files 60 --seed "${#tree}"
done
start_registry
for tree in cli python slow; do push_tree "$work/$tree" "$tree"; done
stall=$work/stall
registry_itself=$registry
python3 "$e2e_dir/stalling_proxy.py" "$registry" "$stall" >"$work/proxy" 2>"$work/proxy.log" &
wait_until test -s "$work/proxy" || fail "the proxy does not start: $(cat "$work/proxy.log")"
registry=127.0.0.1:$(<"$work/proxy")
start_node 'api: {prefetchGroup: "65534"}'
export TMPDIR=$work

state_of() { jq -r '.hints[0].state' "$work/hint.json"; }
# Debian's Python, which sees Debian's gRPC.
client() { /usr/bin/python3 -B "$e2e_dir/hint_client.py" "$repository_root/api/proto" "$run_dir/prefetch.sock" "$@"; }

# mounts_without_origin NAME: the mount and all reads of it while the registry answers for no blob.
mounts_without_origin() {
  local before after
  drop_page_cache
  echo /blobs/ >"$stall"
  before=$(metric sluice_origin_blob_bytes_total)
  mount_image "$1" "$work/mnt/$1"
  reads_right "$work/$1" "$work/mnt/$1" || fail "the image that was hinted at is not all there: $(tail -n 3 "$work/compare.log")"
  after=$(metric sluice_origin_blob_bytes_total)
  [[ $after == "$before" ]] || fail "$((after - before)) bytes of blobs came from the registry"
  rm -f "$stall"
}

note "the socket is for its group"
[[ $(stat -c '%a %g' "$run_dir/prefetch.sock") == '660 65534' ]] || fail "$(stat -c '%a %g' "$run_dir/prefetch.sock")"

note "a member of the group may hint and do no more, a stranger nothing"
chmod 755 "$work"
cp "$SLUICE_BIN/sluice" "$work/sluice"
as_member() { setpriv --reuid=65533 --regid=65533 --groups=65534 "$work/sluice" --socket "$run_dir/api.sock" "$@"; }
as_stranger() { setpriv --reuid=65533 --regid=65533 --clear-groups "$work/sluice" --socket "$run_dir/api.sock" "$@"; }
as_member prefetch list >"$work/list.log" 2>&1 || fail "a member of the group may not hint: $(<"$work/list.log")"
as_member prefetch submit "$registry/python:1" --id member --detach >"$work/list.log" 2>&1 || fail "$(<"$work/list.log")"
as_member prefetch cancel member >"$work/list.log" 2>&1 || fail "$(<"$work/list.log")"
for may_not in "umount $work/mnt/cli" status; do
  # shellcheck disable=SC2086 # a command and its arguments
  expect_failure $exit_refused 'ermission' as_member $may_not
done
expect_failure $exit_refused 'ermission' as_stranger prefetch list
# A socket of its own stands for no other service: nobody unmounts through it.
expect_failure $exit_failed 'does not serve this call' setpriv --reuid=65533 --regid=65533 --groups=65534 \
  "$work/sluice" --socket "$run_dir/prefetch.sock" umount "$work/mnt/cli"

note "the command line tool gives a hint and follows it to its end"
sluice --output json prefetch submit "$registry/cli:1" --id first >"$work/hint.json"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"
[[ $(jq '.hints[0] | .present_bytes == .total_bytes and .total_bytes > 20000000' "$work/hint.json") == true ]] ||
  fail "not all is present: $(cat "$work/hint.json")"
mounts_without_origin cli
(($(metric sluice_origin_blob_bytes_total) > 20000000)) || fail "nobody counts the blobs' bytes"
[[ $(metric sluice_prefetch_hints_total completed) == 1 ]] || fail "the hint was not counted"

note "so does a client in Python"
client submit second "$registry/python:1" >"$work/client.log" || fail "the client's hint failed: $(cat "$work/client.log")"
grep -q '^COMPLETED' "$work/client.log" || fail "$(cat "$work/client.log")"
mounts_without_origin python

if [[ ${BACKEND:-fanotify} == fanotify ]]; then
  note "what of that which hints brought in was read is counted when a start is over"
  (($(metric sluice_hint_bytes_total 'result="fetched"') > 40000000)) || fail "nobody counts what hints bring in"
  (($(metric sluice_hint_bytes_total 'result="used"') == 0)) || fail "it is judged while the start goes on"
  sluice umount "$work/mnt/python"
  judged() { (($(metric sluice_hint_bytes_total 'result="used"') > 20000000)); }
  wait_until judged || fail "$(metric sluice_hint_bytes_total 'result="used"') bytes were read of what hints brought in"
  [[ $(sluice --output json status | jq '.hints.used_bytes > 20000000 and .hints.fetched_bytes > 40000000') == true ]] ||
    fail "the status does not say so"
  sluice --output json prefetch list >"$work/list.json"
  jq -e '.hints[] | select(.id == "second") | .used_bytes > 20000000 and .sources.origin_bytes == .fetched_bytes' \
    "$work/list.json" >"$work/output" || fail "the hint does not say so: $(<"$work/list.json")"
fi

note "so does whoever has buf, without the protobufs"
call() { "$buf" curl --unix-socket "$run_dir/prefetch.sock" --protocol grpc --http2-prior-knowledge \
  --data "$2" "http://localhost/sluice.v1.PrefetchService/$1"; }
if buf=$(bash "$repository_root/tests/tidy/fetch_buf.sh" 2>"$work/buf.log"); then
  call SubmitHints "{\"hints\": [{\"id\": \"buf\", \"reference\": \"$registry/cli:1\", \"all\": {}}]}" >"$work/buf.json" 2>&1 ||
    fail "buf can't submit: $(<"$work/buf.json")"
  [[ $(jq -r '.results[0].outcome' "$work/buf.json") == SUBMIT_OUTCOME_ACCEPTED ]] || fail "$(<"$work/buf.json")"
  call WatchHints '{"ids": ["buf"]}' >"$work/buf.json" 2>&1 || fail "buf can't watch: $(<"$work/buf.json")"
  [[ $(jq -rs '.[-1].hints[0].state' "$work/buf.json") == HINT_STATE_COMPLETED ]] || fail "$(<"$work/buf.json")"
  call CancelHints '{"ids": ["buf"]}' >"$work/buf.json" 2>&1 || fail "buf can't cancel: $(<"$work/buf.json")"
  call GetHint '{"id": "no blanks"}' >"$work/buf.json" 2>&1 && fail "a malformed id is taken"
  grep -q 'google.rpc.BadRequest' "$work/buf.json" || fail "the error has no details: $(<"$work/buf.json")"
fi

note "one id, one content"
sluice --output json prefetch submit "$registry/cli:1" --id first --detach >"$work/hint.json"
[[ $(state_of) == completed ]] || fail "a known hint is $(state_of)"
expect_failure $exit_refused 'first.*another image.*cli:1.*python:1' sluice prefetch submit "$registry/python:1" --id first
expect_failure $exit_refused 'another scope' sluice prefetch submit "$registry/cli:1" --id first --range "$(data_blob_of cli):0+1"

note "what can't be"
expect_failure $exit_refused 'allow' sluice prefetch submit registry.example/other/app:1
expect_failure $exit_not_found 'failed.*missing' sluice prefetch submit "$registry/missing:1"
expect_failure $exit_usage 'reference' sluice prefetch submit "$registry/UPPER:1"
expect_failure $exit_usage 'not within' sluice prefetch submit "$registry/slow:1" --range "$(data_blob_of slow):0+99999999999"
expect_failure $exit_usage 'id' sluice prefetch submit "$registry/slow:1" --id 'no blanks'
expect_failure $exit_not_found 'nobody' sluice prefetch watch nobody
expect_failure $exit_not_found 'nobody' sluice prefetch cancel nobody
blob=$(data_blob_of slow)
expect_failure $exit_not_found "$blob" sluice blob stat "$blob"

note "parts of an image"
sluice --output json prefetch submit "$registry/slow:1" --range "$blob:1000000+10" --range "$blob:1000100+10" >"$work/hint.json"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"
present=$(sluice --output json blob stat "$blob" | jq .present_bytes)
[[ $present == "$(jq '.hints[0].total_bytes' "$work/hint.json")" && $present -gt 0 && $present -lt 2000000 ]] ||
  fail "$present bytes are present of a hint for $(jq '.hints[0].total_bytes' "$work/hint.json")"

note "a blob alone, as its registry has it, and parts of it"
sluice --output json prefetch submit --blob "$registry/slow@$blob" --range "$blob:3000000+10" >"$work/hint.json"
[[ $(jq -r '.hints[0] | "\(.state) \(.reference)"' "$work/hint.json") == "completed $registry/slow@$blob" ]] || fail "$(<"$work/hint.json")"
after=$(sluice --output json blob stat "$blob" | jq .present_bytes)
((after > present && after < $(data_size_of slow))) || fail "$after bytes are present of $present and a chunk"
expect_failure $exit_usage 'not within' sluice prefetch submit --blob "$registry/slow@$blob" --range "$blob:0+99999999999"
settings=$(manifest slow | jq -r .config.digest)
sluice --output json prefetch submit --blob "$registry/slow@$settings" >"$work/hint.json" || fail "$(<"$work/hint.json")"
[[ $(jq '.hints[0] | .present_bytes == .total_bytes and .total_bytes > 0' "$work/hint.json") == true ]] || fail "$(<"$work/hint.json")"
expect_failure $exit_not_found 'failed' sluice prefetch submit --blob "$registry/slow@sha256:$(printf '0%.0s' {1..64})"
expect_failure $exit_usage 'blob.registry' sluice prefetch submit --blob "slow/slow@$blob"

note "a hint that can't be had in its time is given up"
echo "$blob" >"$stall"
expect_failure $exit_failed 'ttl' sluice prefetch submit "$registry/slow:1" --ttl 2s --needed-in 1s --scheduler script --id brief
sluice --output json prefetch watch brief >"$work/hint.json" && fail "a hint that was given up looks like a success"
[[ $(jq -r '.hints[0] | "\(.state) \(.late) \(.scheduler)"' "$work/hint.json") == 'expired true script' ]] ||
  fail "$(<"$work/hint.json")"
expect_failure $exit_usage 'ttl' sluice prefetch submit "$registry/slow:1" --ttl 0s
rm -f "$stall"
[[ $(metric sluice_prefetch_hints_total expired) == 1 ]] || fail "it was not counted"

note "watchers that do not read, and a hint that is cancelled in the middle"
echo "$blob" >"$stall"
sluice --output json prefetch submit "$registry/slow:1" --id slow --detach >"$work/hint.json"
mkfifo "$work/hold"
client idle-watchers 50 slow <"$work/hold" >"$work/idle.log" 2>&1 &
exec {hold}>"$work/hold"
wait_until grep -q watching "$work/idle.log" || fail "the watchers do not watch: $(cat "$work/idle.log")"
fetching() { [[ $(sluice --output json prefetch submit "$registry/slow:1" --id slow --detach | jq -r '.hints[0].state') == fetching ]]; }
wait_until fetching || fail "the hint does not fetch"
expect_failure $exit_refused 'use' sluice blob evict "$blob"
sluice prefetch submit "$registry/slow:1" --id slow >"$work/waiting.log" 2>&1 &
waiting=$!
sleep 0.5
alive "$waiting" || fail "it does not wait: $(cat "$work/waiting.log")"
sluice --output json prefetch cancel slow >"$work/hint.json"
[[ $(state_of) == cancelled ]] || fail "the hint is $(state_of)"
sluice prefetch cancel slow >"$work/hint.log" || fail "cancelling twice is an error"
status=0
wait "$waiting" || status=$?
[[ $status == "$exit_failed" ]] || fail "who waited for a cancelled hint ended with $status: $(cat "$work/waiting.log")"
grep -q cancelled "$work/waiting.log" || fail "$(cat "$work/waiting.log")"
exec {hold}>&-
rm -f "$stall"
not_in_use() { [[ $(sluice --output json blob stat "$blob" | jq .lease_count) == 0 ]]; }
wait_until not_in_use || fail "a cancelled hint keeps its blob in use"
after=$(sluice --output json blob stat "$blob" | jq .present_bytes)
((after >= present)) || fail "what had arrived has gone"
((after < $(data_size_of slow))) || fail "a cancelled fill went on to its end"
sluice --output json prefetch list >"$work/list.json" || fail "hints can't be listed"
[[ $(jq -r '.hints[] | select(.id == "slow") | .state' "$work/list.json") == cancelled ]] ||
  fail "the list lacks the hint: $(<"$work/list.json")"
[[ $(metric sluice_prefetch_hints_total cancelled) == 2 ]] || fail "it was not counted"

note "Ctrl-C ends the waiting, not the hint"
echo "$blob" >"$stall"
# An interactive shell's child; a background job of a script ignores the signal.
python3 -c 'import signal, os, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" \
  prefetch submit "$registry/slow:1" --id again >"$work/waiting.log" 2>&1 &
waiting=$!
again_known() { sluice prefetch submit "$registry/slow:1" --id again --detach >"$work/hint.log" 2>&1; }
sleep 1
wait_until again_known || fail "the hint does not come"
kill -INT "$waiting"
wait_until gone "$waiting" || fail "it waits on"
wait "$waiting" && fail "an interrupted wait looks like a success"
grep -q 'goes on' "$work/waiting.log" || fail "$(cat "$work/waiting.log")"
rm -f "$stall"
sluice --output json prefetch watch again >"$work/hint.json" || fail "the hint did not go on"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"

note "a drained node ends its hints, takes none, says so, and serves its readers on"
sluice blob evict "$blob"
echo "$blob" >"$stall"
sluice prefetch submit "$registry/slow:1" --id drained --detach >"$work/hint.log"
fetching_still() { [[ $(sluice --output json prefetch list | jq -r '.hints[] | select(.id == "drained") | .state') == fetching ]]; }
wait_until fetching_still || fail "the hint does not fetch: $(sluice prefetch list)"
sluice --output json drain >"$work/drain.json"
[[ $(jq -c . "$work/drain.json") == '{"drained":true,"hints_ended":1}' ]] || fail "$(<"$work/drain.json")"
expect_failure $exit_failed 'drained' sluice prefetch watch drained
expect_failure $exit_failed 'drained' sluice prefetch submit "$registry/slow:1"
rm -f "$stall"
[[ $(curl -s -o "$work/readyz" -w '%{http_code}' "http://$listen/readyz") == 503 ]] || fail "it is ready: $(<"$work/readyz")"
grep -q 'drained' "$work/readyz" || fail "$(<"$work/readyz")"
[[ $(sluice --output json status | jq .drained) == true ]] || fail "the status does not say so"
mount_image slow "$work/mnt/slow"
reads_right "$work/slow" "$work/mnt/slow" || fail "readers are not served: $(tail -n 3 "$work/compare.log")"
sluice umount "$work/mnt/slow"
sluice drain --undo >"$work/drain.log"
curl -fsS -o "$work/readyz" "http://$listen/readyz" || fail "it is not ready again: $(<"$work/readyz")"
sluice prefetch submit "$registry/slow:1" --id undrained >"$work/hint.log" || fail "hints are not taken again"

note "a blob's recipe is a torrent of it"
sluice blob recipe "$blob" -o "$work/blob.torrent"
head -c 1 "$work/blob.torrent" | cmp - <(printf d) || fail "it is none"
sluice blob recipe "$blob" | cmp - "$work/blob.torrent" || fail "the recipe differs on standard output"
sluice blob recipe "$(bootstrap_of slow)" | head -c 1 | cmp - <(printf d) ||
  fail "what was hashed whole has no recipe of the node's own"

note "a restart forgets hints that are over, and what they brought in stays"
stop_node
restart_node
expect_failure $exit_not_found 'not known' sluice prefetch watch again
mounts_without_origin slow

note "hints that wait come back after the daemon was killed, and what they are to pin is pinned"
mkdir "$work/later"
python3 "$e2e_dir/make_tree.py" "$work/later" --bytes 24000000 --files 60 --seed 77
registry=$registry_itself push_tree "$work/later" later
blob=$(registry=$registry_itself data_blob_of later)
echo "$blob" >"$stall"
sluice prefetch submit "$registry/later:1" --id later --pin --ttl 1h --detach >"$work/hint.log"
sluice prefetch submit "$registry/later:1" --id brief --ttl 2s --detach >"$work/hint.log"
sluice prefetch submit "$registry/later:1" --id cancelled --detach >"$work/hint.log"
sluice prefetch cancel cancelled >"$work/hint.log"
# What a client was told holds from then on.
kill -KILL "$node_pid"
wait_until gone "$node_pid" || fail "the node lives"
sleep 2
restart_node
[[ $(sluice --output json prefetch submit "$registry/later:1" --id later --pin --ttl 1h --detach | jq -r '.hints[0].state') != completed ]] ||
  fail "it has come without its blob"
expired() { [[ $(sluice --output json prefetch list | jq -r '.hints[] | select(.id == "brief") | .state') == expired ]]; }
wait_until expired || fail "its time did not go on: $(sluice --output json prefetch list)"
expect_failure $exit_not_found 'not known' sluice prefetch watch cancelled
[[ $(sluice --output json blob stat "$blob" | jq .pinned) == false ]] || fail "it is pinned before it is there"
rm -f "$stall"
sluice --output json prefetch watch later >"$work/hint.json" || fail "the hint did not go on: $(<"$work/hint.json")"
[[ $(state_of) == completed ]] || fail "the hint is $(state_of)"
expect_failure $exit_refused 'pinned' sluice blob evict "$blob"
sluice blob unpin "$blob"
sluice blob evict "$blob"
journal_is_empty() { [[ $(jq '.hints | length' "$data_dir/hints.json") == 0 ]]; }
wait_until journal_is_empty || fail "what is over is journalled still: $(<"$data_dir/hints.json")"

note "a group that is not there"
stop_node
write_config 'api: {prefetchGroup: nosuchgroup}'
expect_failure $exit_failed 'prefetchGroup.*nosuchgroup' "$SLUICE_BIN/sluiced" --config "$config"
write_config "api: {socket: $run_dir/a.sock, prefetchSocket: $run_dir/a.sock}"
expect_failure $exit_usage 'prefetchSocket.*own' "$SLUICE_BIN/sluiced" --config "$config"
