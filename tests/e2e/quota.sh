#!/usr/bin/env bash
# The store keeps to its capacity: images are mounted, read wholly and unmounted in turn, more than it can hold, and what
# it takes up on disk, index and reservations included, never goes beyond the capacity and what may be under way. What
# is pinned stays. An image larger than the whole store is read right too, with an alarm, and is gone soon after.
source "$(dirname "$0")/lib.sh"

readonly capacity=200000000 inflight=$((16 << 20)) images=${IMAGES:-8} rounds=2

start_registry
for ((i = 1; i <= images; i++)); do
  mkdir "$work/tree$i"
  python3 "$e2e_dir/make_tree.py" "$work/tree$i" --bytes 80000000 --files 40 --seed "$i"
  push_tree "$work/tree$i" "app$i"
done
mkdir "$work/large"
python3 "$e2e_dir/make_tree.py" "$work/large" --bytes 300000000 --files 60 --seed 99
push_tree "$work/large" large

export SLUICE_STORE_CAPACITY=$capacity SLUICE_FETCH_INFLIGHT_MAX=16Mi
start_node

# Allocated, as the file system counts it. That a file goes while it is looked at is no failure.
allocated() { { du --summarize --block-size=1 "$data_dir" 2>/dev/null || true; } | cut -f1; }
watch_store() {
  local most=0 now
  while [[ ! -e $work/watched ]]; do
    now=$(allocated)
    ((now <= most)) || most=$now
    echo "$most" >"$work/most.new" && mv "$work/most.new" "$work/most"
    sleep 0.02
  done
}
below_low() { (($(allocated) <= capacity / 100 * 80)); }

watch_store &
watcher=$!
note "images of 80 MB in turn, the first of them pinned"
for ((round = 1; round <= rounds; round++)); do
  for ((i = 1; i <= images; i++)); do
    mount_image "app$i" "$work/mnt/app$i"
    # Its data and its bootstrap: nothing else is there yet.
    if ((round == 1 && i == 1)); then
      for blob in $(sluice --output json blob ls | jq -r '.blobs[].digest'); do sluice blob pin "$blob" >&2; done
    fi
    [[ $(checksum_of "$work/mnt/app$i") == "$(checksum_of "$work/tree$i")" ]] ||
      fail "round $round: image $i does not read right"
    sluice umount "$work/mnt/app$i" >&2
    if ((i == 1)); then fetched[round]=$(metric sluice_origin_blob_bytes_total); fi
    if ((round == 2 && i == 1)); then ((fetched[2] == before)) || fail "the pinned image was fetched again"; fi
    before=$(metric sluice_origin_blob_bytes_total)
  done
done
: >"$work/watched"
wait "$watcher"
most=$(<"$work/most")
((most <= capacity + inflight)) || fail "the store took up $most bytes, of a capacity of $capacity"
(($(metric sluice_evicted_bytes_total 'reason="watermark"') > 0)) || fail "nothing was evicted"
[[ $(metric sluice_cache_capacity_bytes) == "$capacity" ]] || fail "the metric of the capacity is wrong"
sluice --output json status | jq -e ".store.capacity_bytes == $capacity" >/dev/null || fail "status shows another capacity"
! grep -q ALARM "$work/sluiced.log" || fail "an alarm: $(grep ALARM "$work/sluiced.log")"

note "an image larger than the store"
mount_image large "$work/mnt/large"
[[ $(checksum_of "$work/mnt/large") == "$(checksum_of "$work/large")" ]] || fail "the large image does not read right"
has_alarm() { grep -q 'ALARM.*more than its capacity' "$work/sluiced.log"; }
wait_until has_alarm || fail "there is no alarm, though the store takes up $(allocated) bytes"
sluice umount "$work/mnt/large" >&2
unmounted=$SECONDS
wait_until below_low || fail "the store still takes up $(allocated) bytes"
((SECONDS - unmounted <= 10)) || fail "it took $((SECONDS - unmounted)) s to get below the low watermark"
sluice blob stat "$(data_blob_of app1)" >&2 || fail "the pinned blob is gone"
echo "{\"capacity\":$capacity,\"most\":$most,\"evicted\":$(metric sluice_evicted_bytes_total 'reason="watermark"')}"
