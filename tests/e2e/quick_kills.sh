#!/usr/bin/env bash
# Many kills of sluiced at random instants, start-up and recovery among them, under small readers that compare every
# byte: none reads a wrong one, none is refused, none is left waiting. KILLS sets how many (default 150).
source "$(dirname "$0")/lib.sh"

readonly kills=${KILLS:-150} readers=2 reads_per_reader=300

any_reader_left() {
  local pid
  for pid in "${reader_pids[@]}"; do alive "$pid" && return; done
  return 1
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 96000000
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"

done_kills=0
while ((done_kills < kills)); do
  make_cold app "$mount"
  reader_pids=()
  for ((reader = 0; reader < readers; ++reader)); do
    python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" --reads "$reads_per_reader" --seed "$RANDOM" \
      >"$work/reader$reader.log" 2>&1 &
    reader_pids+=($!)
  done
  while any_reader_left && ((done_kills < kills)); do
    sleep "0.$((RANDOM % 5))$((RANDOM % 10))"
    stop_node KILL
    launch_node
    ((++done_kills))
  done
  node_is_ready || fail "the node does not become ready after $done_kills kills"
  for ((reader = 0; reader < readers; ++reader)); do
    wait "${reader_pids[reader]}" || fail "after $done_kills kills: $(tail -n 3 "$work/reader$reader.log")"
  done
  note "$done_kills of $kills kills"
done
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the tree differs after all kills"
