#!/usr/bin/env bash
# A file of 96 MB is read from one end to the other, plain and compressed on the wire: the registry is asked a few times. It
# is read right also by somebody who stops in the midst of it for longer than anybody holds an answer, while the registry
# dies and comes back, and by two at once who begin elsewhere.
source "$(dirname "$0")/lib.sh"
BACKEND=${BACKEND:-fanotify}
export START_PROFILES=off
readonly file_bytes=96000000

mkdir "$work/tree"
head -c $file_bytes /dev/urandom >"$work/tree/file"
start_registry
start_node
for compression in none zstd; do
  sluice image push --compression $compression "${push_flags[@]}" "$work/tree" "$registry/$compression:1" >&2
done
origin_requests() { metric sluice_origin_requests_total; }

# read_cold NAME COMMAND...: what the command reads of the file, from nothing; fails if that is not the file.
read_cold() {
  make_cold "$1" "$work/mnt/$1"
  before=$(origin_requests)
  "${@:2}" <"$work/mnt/$1/file" | cmp - "$work/tree/file" || fail "$1, ${*:2}: other bytes"
  requests=$(($(origin_requests) - before))
}
slow() { dd bs=1M count=40 status=none; sleep 3; dd bs=1M status=none; }

for image in none zstd; do
  mount_image "$image" "$work/mnt/$image"
  read_cold "$image" cat
  note "$image: $requests requests"
  ((requests <= 16)) || fail "$image: one reader from one end to the other costs $requests requests"
  read_cold "$image" slow
  note "$image, with a pause: $requests requests"
  ((requests <= 20)) || fail "$image: one reader who pauses costs $requests requests"
  sluice umount "$work/mnt/$image"
done

note "the registry dies in the midst of it and comes back"
mount_image none "$work/mnt/none"
make_cold none "$work/mnt/none"
exec 3<"$work/mnt/none/file"
dd bs=1M count=40 status=none <&3 >"$work/got"
stop_registry
start_registry "$registry" 3<&-
cat <&3 >>"$work/got"
exec 3<&-
cmp "$work/got" "$work/tree/file" || fail "other bytes after the registry came back"

note "two at once, who begin elsewhere"
make_cold none "$work/mnt/none"
tail -c +48000001 "$work/mnt/none/file" >"$work/second" &
second=$!
head -c 48000000 "$work/mnt/none/file" >"$work/first"
wait $second
cat "$work/first" "$work/second" | cmp - "$work/tree/file" || fail "other bytes for two at once"
sluice umount "$work/mnt/none"
