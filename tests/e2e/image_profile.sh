#!/usr/bin/env bash
# What starts of an image read, as people handle it: recorded while a command runs on a mount, shown, exported and
# imported, pushed beside the image; a node that has never heard of the image, nor of other nodes, brings it in before
# its first start reads anything. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 48000000 --files 60
start_registry
use_node 1
start_node
push_tree "$work/tree" app
image=$registry/app:1
digest=sha256:$(manifest app | sha256sum | cut -d' ' -f1)
blob=$(data_blob_of app)
mapfile -t touched < <(cd "$work/tree" && find . -type f -size +100k | LC_ALL=C sort | sed -n '5p;17p;29p')
((${#touched[@]} == 3)) || fail "the tree has too few files"
mkdir "$work/tmp"
export TMPDIR=$work/tmp
profile_json() { sluice --output json image profile "${1:-$image}"; }
starts() { profile_json | jq .start_count; }
nothing_left() {
  [[ -z $(mounts_below "$work/tmp") ]] || fail "$1: still mounted: $(mounts_below "$work/tmp")"
  [[ -z $(ls -A "$work/tmp") ]] || fail "$1: left behind: $(ls -A "$work/tmp")"
}

note "nothing is known yet, and it is said what to do"
expect_failure 3 'no start of .*image profile record' sluice image profile "$image"
expect_failure 3 'no start of .*image profile record' sluice image profile "$digest"
expect_failure 3 'app:2' sluice image profile "$registry/app:2"
expect_failure 2 REF sluice image profile

note "a command is run in the image, and what it reads is recorded"
# shellcheck disable=SC2016  # for the shell on the mount
sluice --output json image profile record "$image" -- sh -c '[ "$PWD" = "$SLUICE_MOUNT" ] || exit 9; echo to stderr
  for file; do head -c 65536 "$file" >/dev/null || exit 8; done' sh "${touched[@]}" >"$work/recorded" 2>"$work/stderr" ||
  fail "the recording failed: $(<"$work/stderr")"
nothing_left record
grep -q 'to stderr' "$work/stderr" || fail "what the command says is lost"
jq -e '.start_count == 1 and .touched_bytes >= 3 * 65536 and .touched_bytes < 16000000' "$work/recorded" >"$work/output" ||
  fail "it says: $(<"$work/recorded")"
profile_json >"$work/shown"
cmp "$work/recorded" "$work/shown" || fail "what is shown is something else"
jq -e --arg digest "$digest" --arg blob "$blob" '.manifest_digest == $digest and .blobs[0].digest == $blob and
  ([.blobs[].spans[].size_bytes] | add) == .touched_bytes and
  ([.blobs[0].spans[].after_seconds] | . == sort)' "$work/shown" >"$work/output" || fail "it shows: $(<"$work/shown")"
[[ $(profile_json "$digest" | jq '[.blobs[].spans[].chunk_count] | add') == \
  $(jq '[.blobs[].spans[].chunk_count] | add' "$work/shown") ]] || fail "by its digest it is another one"
sluice image profile "$image" >"$work/table"
grep -q "^starts    1$" "$work/table" && grep -q '^AFTER .*WEIGHT$' "$work/table" || fail "$(<"$work/table")"

note "a command that fails says so, one that reads nothing too, and Ctrl-C unmounts"
expect_failure 7 'sh ended with exit code 7' sluice image profile record "$image" -- sh -c "cat '${touched[0]}' >/dev/null; exit 7"
nothing_left 'a failed command'
expect_failure 2 'cannot run no-such-program' sluice image profile record "$image" -- no-such-program
nothing_left 'no program'
before=$(starts)
expect_failure 5 'nothing was recorded' sluice image profile record "$image" -- true
[[ $(starts) == "$before" ]] || fail "a start without a read counts"
# In the background of a script SIGINT is ignored.
python3 - "$SLUICE_BIN/sluice" "$run_dir/api.sock" "$image" >"$work/interrupted" 2>&1 <<'END' || fail "$(<"$work/interrupted")"
import os, signal, subprocess, sys, time
sluice, socket, image = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_DFL)
run = subprocess.Popen([sluice, "--socket", socket, "image", "profile", "record", image, "--", "sleep", "300"])
deadline = time.monotonic() + 30
while "sluice-record" not in open("/proc/mounts").read():
    assert time.monotonic() < deadline and run.poll() is None, "it does not mount"
    time.sleep(0.05)
time.sleep(0.2)
run.send_signal(signal.SIGINT)
code = run.wait(60)
assert code == 128 + signal.SIGTERM, f"it ended with {code}"
END
nothing_left 'an interrupted one'

note "it is exported, and taken in by a node only if it is of this image"
sluice image profile "$image" --export "$work/profile.json"
jq -e '.recorders == [] and .runs >= 1' "$work/profile.json" >"$work/output" || fail "$(<"$work/profile.json")"
for change in '.spans[0][0] = 7' '.spans[0][1] = 60000' '.version = 2' '.runs = 0' \
  '.manifest = "sha256:" + ("0" * 64)'; do
  jq -c "$change" "$work/profile.json" >"$work/bad.json"
  expect_failure 2 'cannot import .*bad.json.*(does not suit|malformed)' sluice image profile "$image" --import "$work/bad.json"
done
expect_failure 2 '65536' sluice image profile "$image" --import "$work/tree/${touched[0]}"
[[ $(starts) == "$before" ]] || fail "a bad import has changed what is known"
jq -c '.runs = 5' "$work/profile.json" >"$work/other.json"
sluice image profile "$image" --import "$work/other.json" >"$work/output"
[[ $(starts) == 5 ]] || fail "the import is not there: $(<"$work/output")"

note "pushed beside the image, it is replayed by a fresh node at its first start"
sluice image push-profile "$image" >"$work/pushed"
grep -q "of 5 starts" "$work/pushed" || fail "$(<"$work/pushed")"
stop_node
use_node 2
start_node
sluice mount "$image" "$work/node2/mnt" >&2
brought_in() { (($(metric sluice_profile_bytes_total 'result="fetched"') >= 3 * 65536)); }
if [[ ${BACKEND:-fanotify} != cachefiles ]]; then
  wait_until brought_in || fail "nothing is brought in on a fresh node"
fi
settled() { (($(metric sluice_fetch_inflight_bytes) == 0)); }
wait_until settled || fail "node 2 goes on fetching"
(($(metric sluice_profile_bytes_total 'result="fetched"') < 16000000)) || fail "far more was brought in than was read"
drop_page_cache
origin_reads=$(metric sluice_reads_total 'source="origin"')
for file in "${touched[@]}"; do cmp -n 65536 "$work/tree/$file" "$work/node2/mnt/$file" || fail "$file has other bytes"; done
(($(metric sluice_reads_total 'source="origin"') == origin_reads)) || fail "what was brought in is read from the registry"
note "it is said where the time of a start went, and what was foreseen"
why() { sluice --output json status "$1" --why | jq '.starts[0]'; }
adds_up='([.waited[] | .queued_seconds + .answer_seconds + .wire_seconds + .verified_seconds + .stored_seconds <=
    .waited_seconds + 1e-6] | all) and .waiting_seconds <= .watched_seconds + 1e-6 and .failed == 0 and
  ([.resolve_seconds, .bootstrap_seconds, .mounting_seconds] | all(. > 0)) and
  ([.recipes_seconds, .blobs_seconds] | all(. >= 0)) and
  .resolve_round_trips >= 1 and .recipe_round_trips >= 1 and .touched_bytes.late <= .touched_bytes.waited'
foreseen() {
  why "$image" | jq -e '.touched_bytes | .profile >= 3 * 65536 and .hint + .fill == 0' >"$work/output"
}
if [[ ${BACKEND:-fanotify} != cachefiles ]]; then
  # What the keeper lets pass is asked for now and then.
  wait_until foreseen || fail "what was brought in ahead does not count as foreseen: $(why "$image")"
  why "$work/node2/mnt" | jq -e '.waited.origin.reads == 0 and .waited.origin.waited_seconds == 0 and
    .touched_bytes.waited == 0' >"$work/output" || fail "what was brought in ahead counts as waited for: $(why "$image")"
fi
why "$work/node2/mnt" | jq -e "$adds_up" >"$work/output" || fail "node 2 says: $(why "$image")"
sluice status "$image" --why >"$work/why"
grep -q '^  foreseen by earlier starts ' "$work/why" || fail "$(<"$work/why")"
expect_failure 3 'nothing of sluice.*sluice status' sluice status "$registry/other:1" --why
expect_failure 3 'nothing of sluice.*sluice status' sluice status "$work/tmp" --why
expect_failure 2 IMAGE sluice status --why
stop_node
start_node
expect_failure 5 "node2/mnt before this sluiced was started, which does not know" sluice status "$image" --why
sluice umount "$work/node2/mnt" >&2
expect_failure 3 'nothing of sluice' sluice status "$work/node2/mnt" --why
sluice mount "$image" "$work/node2/mnt" >&2
drop_page_cache
cmp -n 65536 "$work/tree/${touched[0]}" "$work/node2/mnt/${touched[0]}" || fail "it has other bytes"
here() { why "$image" | jq -e '.touched_bytes | .here >= 65536 and .profile == 0' >"$work/output"; }
if [[ ${BACKEND:-fanotify} != cachefiles ]]; then
  wait_until here || fail "what was there does not count as here: $(why "$image")"
fi
sluice umount "$work/node2/mnt" >&2

note "it is brought in while the bootstrap is still on its way, and who goes meanwhile leaves nothing behind"
if [[ ${BACKEND:-fanotify} != cachefiles ]]; then
  manifest app | jq -r '.layers[-1].digest' >"$work/stall"
  python3 "$e2e_dir/stalling_proxy.py" "$registry" "$work/stall" >"$work/proxy" 2>"$work/proxy.log" &
  wait_until test -s "$work/proxy" || fail "the proxy does not start: $(<"$work/proxy.log")"
  direct=$registry registry=127.0.0.1:$(<"$work/proxy")
  profiles=$data_dir/profiles
  use_node 4
  mkdir -p "$data_dir"
  cp -r "$profiles" "$data_dir/profiles"
  start_node
  "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" mount "$registry/app:1" "$work/node4/mnt" >"$work/early" 2>&1 &
  mounting=$!
  wait_until brought_in || fail "nothing is brought in before the bootstrap: $(<"$work/early")"
  alive "$mounting" || fail "the mount did not wait for its bootstrap: $(<"$work/early")"
  kill -TERM "$mounting"
  wait_until gone "$mounting" || fail "it does not end"
  ended() { (($(metric sluice_profile_bytes_total 'result="unread"') >= 3 * 65536)); }
  wait_until ended || fail "the replay of a start that is not made goes on"
  [[ -z $(mounts_below "$work/node4") ]] || fail "it is mounted all the same"
  rm "$work/stall"
  sluice mount "$registry/app:1" "$work/node4/mnt" >&2
  for file in "${touched[@]}"; do cmp -n 65536 "$work/tree/$file" "$work/node4/mnt/$file" || fail "$file has other bytes"; done
  sluice umount "$work/node4/mnt" >&2
  stop_node
  registry=$direct
fi

note "what somebody has attached that is no profile of the image is advice that nobody takes"
jq -c '.manifest = "sha256:" + ("0" * 64)' "$work/profile.json" >"$work/hostile.json"
attach() {  # a document, as the newest profile
  local layer empty
  layer=$(upload app "$1")
  printf '{}' >"$work/empty"
  empty=$(upload app "$work/empty")
  jq -nc --arg layer "$layer" --arg empty "$empty" --argjson size "$(stat -c %s "$1")" --arg subject "$digest" \
    --argjson subject_size "$(manifest app | wc -c)" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json", artifactType: "application/vnd.sluice.profile.v1",
    annotations: {"org.opencontainers.image.created": "2999-01-01T00:00:00Z"},
    config: {mediaType: "application/vnd.oci.empty.v1+json", digest: $empty, size: 2},
    layers: [{mediaType: "application/vnd.sluice.profile.v1+json", digest: $layer, size: $size}],
    subject: {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $subject, size: $subject_size}}' \
    >"$work/artifact"
  local artifact=sha256:
  artifact+=$(sha256sum <"$work/artifact" | cut -d' ' -f1)
  put_manifest app "$artifact" <"$work/artifact" >"$work/put"
  jq -nc --arg artifact "$artifact" --argjson size "$(stat -c %s "$work/artifact")" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json", manifests: [{
      mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $artifact, size: $size,
      artifactType: "application/vnd.sluice.profile.v1"}]}' >"$work/referrers"
  curl -fsS -o "$work/put" -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
    --data-binary @"$work/referrers" "http://$registry/v2/app/manifests/sha256-${digest#sha256:}"
}
attach "$work/hostile.json"
use_node 3
start_node
sluice mount "$image" "$work/node3/mnt" >&2
refused() { grep -q "attached to $digest as its profile is none" "$node_log"; }
wait_until refused || fail "node 3 has not looked at it: $(tail -n 3 "$node_log")"
for file in "${touched[@]}"; do cmp -n 65536 "$work/tree/$file" "$work/node3/mnt/$file" || fail "$file has other bytes"; done
(($(metric sluice_profile_bytes_total 'result="fetched"') == 0)) || fail "a profile of another image is replayed"
why "$image" | jq -e "$adds_up"' and .waited.origin.reads >= 3 and .waiting_seconds > 0 and
  (.waited.origin | .answer_seconds + .wire_seconds > 0 and .verified_seconds > 0 and .waited_seconds > 0) and
  (.touched_bytes | .waited - .late >= 3 * 65536 and .profile == 0)' >"$work/output" ||
  fail "node 3 says: $(why "$image")"
echo "$(jq .touched_bytes "$work/recorded") bytes recorded, pushed and replayed"
