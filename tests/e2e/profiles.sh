#!/usr/bin/env bash
# What a start of an image reads on one node is brought in on another ahead of the same start: recorded, told to the
# ranks of the image, replayed at the mount before anything is read. A profile that is damaged or wrong costs bounded
# bytes and no reader anything. BACKEND chooses the kernel front end.
source "$(dirname "$0")/lib.sh"
source "$e2e_dir/lib_nodes.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 48000000 --files 60
start_registry
use_node 1
write_config
push_tree "$work/tree" app
digest=$(manifest app | sha256sum | cut -d' ' -f1)
blob=$(data_blob_of app)
mapfile -t touched < <(cd "$work/tree" && find . -type f -size +100k | LC_ALL=C sort | sed -n '5p;17p;29p')
((${#touched[@]} == 3)) || fail "the tree has too few files"

profile_bytes() { metric sluice_profile_bytes_total "result=\"$1\""; }
present_bytes() { sluice --output json blob stat "$blob" | jq .present_bytes; }
start_program() {  # reads a little of three files, and compares
  local file
  for file in "${touched[@]}"; do
    cmp -n 65536 "$work/tree/$file" "$1/$file" || fail "$file has other bytes"
  done
}

for n in 1 2 3; do start_member "$n" 3; done
reached_all() { sluice --output json peers | jq -e '[.peers[] | select(.state == "alive")] | length == 2' >"$work/peers"; }
for n in 1 2 3; do
  use_node "$n"
  wait_until reached_all || fail "node $n does not know the others: $(sluice peers)"
done

why() { sluice --output json status "$1" --why >"$work/why" && jq -e ".starts[0] | $2" "$work/why" >"$work/output"; }
hinted() { sluice --output json prefetch submit --profile "$registry/app:1" | jq -r '.hints[0] | "\(.state) \(.profile_starts)"'; }
use_node 1
[[ $(hinted) == 'completed 0' ]] || fail "a hint for a profile that nobody has: $(sluice prefetch list)"
(($(present_bytes) == 0)) || fail "without a profile more than the bootstrap was brought in"

note "the first start is recorded when its mount ends, and told to the image's ranks"
sluice mount "$registry/app:1" "$work/node1/mnt" >&2
drop_page_cache
start_program "$work/node1/mnt"
(($(profile_bytes fetched) == 0)) || fail "something was replayed though nothing was known"
why "$registry/app:1" '([.waited[].reads] | add) >= 3 and .waiting_seconds > 0 and
  .waiting_seconds <= .watched_seconds and (.waited.origin.waited_seconds + .waited.peer.waited_seconds > 0) and (.touched_bytes | .profile == 0 and
  .waited - .late > 0)' || fail "what nobody had foreseen does not count so: $(<"$work/why")"
sluice umount "$work/node1/mnt" >&2
recorded() { [[ -s $data_dir/profiles/$digest.json ]]; }
wait_until recorded || fail "node 1 has recorded nothing"
(($(metric sluice_profile_recordings_total) == 1)) || fail "node 1 counts no recording"
use_node 2
wait_until recorded || fail "node 2 was not told"
jq -e '.runs == 1 and .public == true and (.spans | length >= 1)' "$data_dir/profiles/$digest.json" >"$work/profile" ||
  fail "node 2 has another profile: $(<"$data_dir/profiles/$digest.json")"

note "a hint brings in what starts read where nothing is mounted"
# It has what it was asked for as a home; by its name it may be that of nothing that was read.
evicted() { sluice blob evict "$blob" >"$work/evicted" 2>&1 || grep -q 'is not in the store' "$work/evicted"; }
wait_until evicted || fail "it can't be evicted: $(<"$work/evicted")"
[[ $(hinted) == 'completed 1' ]] || fail "the profile was not found: $(sluice prefetch list)"
(($(present_bytes) >= 3 * 65536 && $(present_bytes) < 16000000)) || fail "$(present_bytes) bytes were brought in"

note "on the third node it is there before anything is read"
use_node 3
rm -rf "$data_dir/profiles"
sluice blob evict "$blob" >"$work/evicted" 2>&1 || true  # what it has fetched for node 1 as its home
sluice mount "$registry/app:1" "$work/node3/mnt" >&2
brought_in() { (($(profile_bytes fetched) > 0 && $(present_bytes) >= 3 * 65536)); }
wait_until brought_in || fail "nothing was brought in on node 3: $(present_bytes) bytes present"
(($(present_bytes) < 16000000)) || fail "far more was brought in than was read: $(present_bytes)"
settled() { (($(metric sluice_fetch_inflight_bytes) == 0)); }
wait_until settled || fail "node 3 goes on fetching"
drop_page_cache
before=$(metric sluice_reads_total 'source="origin"')
start_program "$work/node3/mnt"
[[ ${BACKEND:-fanotify} == cachefiles ]] || (($(metric sluice_reads_total 'source="origin"') == before)) ||
  fail "what is known was fetched again"
if [[ ${BACKEND:-fanotify} != cachefiles ]]; then
  foreseen() { why "$work/node3/mnt" '.touched_bytes.profile >= 3 * 65536'; }
  wait_until foreseen || fail "what was brought in ahead does not count as foreseen: $(<"$work/why")"
  why "$work/node3/mnt" '.touched_bytes.waited == 0 and .waited.origin.reads == 0 and .waiting_seconds == 0' ||
    fail "what was brought in ahead counts as waited for: $(<"$work/why")"
fi
all_used() { (($(profile_bytes used) == $(profile_bytes fetched))); }
[[ ${BACKEND:-fanotify} != fanotify ]] || wait_until all_used ||
  fail "of $(profile_bytes fetched) bytes brought in $(profile_bytes used) count as used"
reads_right "$work/tree" "$work/node3/mnt" || fail "node 3 reads other bytes"
sluice umount "$work/node3/mnt" >&2
merged() { jq -e '.runs == 2' "$data_dir/profiles/$digest.json" >"$work/profile" 2>&1; }
wait_until merged || fail "node 3 has not added its start: $(<"$data_dir/profiles/$digest.json")"
use_node 2
wait_until merged || fail "node 2 was not told of node 3's start"

note "who is no member tells nothing, and a hostile profile costs bounded bytes"
code() { curl -sS -o "$work/answer" -w '%{http_code}' "$@"; }
peers=http://$(peer_address 2)
[[ $(code "$peers/sluice/v1/profiles/sha256:$digest") == 200 ]] || fail "node 2 does not give the profile"
[[ $(code "$peers/sluice/v1/profiles/sha256:$(printf '0%.0s' {1..64})") == 404 ]] || fail "a profile of nothing"
[[ $(code "$peers/sluice/v1/profiles/x") == 400 ]] || fail "a malformed digest is answered"
[[ $(code --data-binary @"$data_dir/profiles/$digest.json" "$peers/sluice/v1/profiles") == 400 ]] ||
  fail "what no member has recorded is taken"
spans=$(jq -nc '[range(1400) | [0, . * 40, 1, ., 255]]')
jq -nc --arg manifest "sha256:$digest" --argjson spans "$spans" '{version: 1, runs: 1, manifest: $manifest,
  recorder: "nobody:1", number: 7, public: true, spans: $spans, blind: []}' >"$work/hostile"
[[ $(code --data-binary @"$work/hostile" "$peers/sluice/v1/profiles") == 400 ]] || fail "a stranger's start is taken"
use_node 1
sluice blob evict "$blob" >&2
jq -nc --arg manifest "sha256:$digest" '{version: 1, runs: 999, manifest: $manifest, public: true,
  spans: [range(64) | [0, . * 64, 64, ., 255]], blind: [], recorders: []}' >"$data_dir/profiles/$digest.json"
stop_node
start_node "$(cluster_config 1 3)" 'profiles:' '  unreadMax: 4Mi'
before=$(metric sluice_profile_bytes_total 'result="fetched"')
sluice mount "$registry/app:1" "$work/node1/mnt" >&2
grew() { (($(profile_bytes fetched) > before)); }
wait_until grew || fail "node 1 replays nothing"
wait_until settled
(($(profile_bytes fetched) <= before + 6 * 1048576)) || fail "a hostile profile brought in $(profile_bytes fetched) bytes"
start_program "$work/node1/mnt"
echo 'a damaged profile' >"$data_dir/profiles/$digest.json"
sluice umount "$work/node1/mnt" >&2
sluice mount "$registry/app:1" "$work/node1/mnt" >&2
start_program "$work/node1/mnt"
echo "two starts recorded, $(jq '[.spans[][2]] | add' "$work/node2/data/profiles/$digest.json") chunks known"
