# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# 4 KiB reads of present chunks of an incomplete blob, beside a bare responder that only allows. On both sides each
# read misses the mount's page cache and goes through an event and its answer; the file beneath is in memory.

readonly reads_per_turn=4000

# The events that the keeper has answered by itself so far.
events_answered() { metric sluice_ondemand_requests_total 'result="hit"'; }

read_ours() { ours=$("$tools/read_latency" "$work/mnt/ours/read" "$reads_per_turn" "$pair"); }
read_bare() { bare=$("$tools/read_latency" "$work/mnt/bare/read" "$reads_per_turn" "$pair"); }

mount_ours() {
  mount_image hit "$work/mnt/ours"
  # All of one file is read and nothing of the other, whose chunks stay absent: no ignore mark is set.
  cat "$work/mnt/ours/read" >"$work/command.log"
  [[ $(sluice --output json blob stat "$(data_blob_of hit)" | jq '.present_bytes < .size_bytes') == true ]] ||
    fail "the blob is complete, so that reads raise no events"
}

mount_bare() {
  mkdir "$work/bare" "$work/mnt/bare"
  download_plain hit 0 "$work/bare/blob"
  download_plain hit -1 "$work/bare/bootstrap"
  mount --bind "$work/bare" "$work/bare"
  mount --make-private "$work/bare"
  "$tools/bare_responder" "$work/bare" >"$work/responder.log" &
  responder_pid=$!
  wait_until grep -q ready "$work/responder.log" || fail "the bare responder does not start"
  python3 tests/bench/mount_by_hand.py "$work/bare/bootstrap" "$work/bare/blob" "$work/mnt/bare"
}

measure() {
  local pair ours bare answered_before answered responder_pid
  mkdir "$work/tree"
  head -c 64M /dev/urandom >"$work/tree/read"
  head -c 128M /dev/urandom >"$work/tree/unread"
  start_registry
  start_node
  push_tree "$work/tree" hit
  mount_ours
  mount_bare

  pair=0
  read_ours
  read_bare
  answered_before=$(events_answered)
  for ((pair = 1; pair <= pairs; ++pair)); do
    in_turns "$pair" read_ours read_bare
    note "ours $ours us, bare $bare us"
    echo "$ours $bare" >>"$work/measurements"
  done

  answered=$(($(events_answered) - answered_before))
  ((answered >= pairs * reads_per_turn)) || fail "only $answered of $((pairs * reads_per_turn)) reads raised an event"
  umount "$work/mnt/bare"
  kill "$responder_pid"
  wait "$responder_pid" || fail "the bare responder failed"
  (($(tail -n 1 "$work/responder.log") >= pairs * reads_per_turn)) || fail "reads passed the bare responder by"
  report latency_ratio_p50 ratio --names ours_microseconds,bare_microseconds <"$work/measurements"
}
