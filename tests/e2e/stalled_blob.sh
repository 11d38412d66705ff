#!/usr/bin/env bash
# The registry does not answer for one blob: each of its readers gets an error at the deadline and a killed one dies,
# while reads of another blob take about as long as before; and when the registry answers again, all is well.
source "$(dirname "$0")/lib.sh"

readonly readers_count=64 ratio_max=2 tries_max=3
for tree in stalled other; do
  mkdir "$work/$tree"
  python3 "$e2e_dir/make_tree.py" "$work/$tree" --bytes 96000000 --files 12 --seed "${#tree}"
done
start_registry
push_tree "$work/stalled" stalled
push_tree "$work/other" other
blob=$(data_blob_of stalled)
python3 "$e2e_dir/stalling_proxy.py" "$registry" "$work/stall" >"$work/proxy" 2>"$work/proxy.log" &
wait_until test -s "$work/proxy" || fail "the proxy does not start: $(cat "$work/proxy.log")"
registry=127.0.0.1:$(<"$work/proxy")
READ_DEADLINE=${READ_DEADLINE:-20s} start_node
mount_image stalled "$work/mnt/stalled"
mount_image other "$work/mnt/other"
drop_page_cache

part=0
median_of_other() {
  python3 "$e2e_dir/cold_latency.py" "$work/other" "$work/mnt/other" --part "$part/8" --reads 10 2>"$work/latency.log" ||
    fail "a read of the other blob: $(tail -n 1 "$work/latency.log")"
}

# Each from a chunk of its own.
start_readers() {
  local i size
  size=$(stat -c %s "$largest")
  readers=()
  for ((i = 0; i < readers_count; ++i)); do
    dd if="$largest" of="$work/read.$i" bs=4096 count=1 skip=$((i * (size / readers_count) / 4096)) 2>"$work/dd.$i" &
    readers+=($!)
  done
}

# Or it is too late: some have been refused.
all_at_node() { (($(metric sluice_reads_waiting) >= readers_count)) || ! all_wait; }
all_wait() { local pid; for pid in "${readers[@]}"; do alive "$pid" || return 1; done; }

name=$(cd "$work/stalled" && find . -type f -printf '%s %p\n' | sort -nr | sed -n '1s/^[0-9]* //p')
largest=$work/mnt/stalled/$name

note "what the stalled blob's readers do to others"
best=
checked=no
for ((try = 0; try < tries_max; ++try)); do
  rm -f "$work/stall"
  before=$(median_of_other); part=$((part + 1))
  echo "$blob" >"$work/stall"
  start_readers
  wait_until all_at_node || fail "only $(metric sluice_reads_waiting) of $readers_count reads came to the node"
  during=$(median_of_other); part=$((part + 1))
  if ! all_wait; then
    note "the measurement took longer than the readers' deadline, and does not count"
    kill -KILL "${readers[@]}" 2>/dev/null || true
    for pid in "${readers[@]}"; do wait_until gone "$pid" || fail "a killed reader does not die"; done
    continue
  fi
  ratio=$(awk -v before="$before" -v during="$during" 'BEGIN { printf "%.2f", during / before }')
  note "median read of the other blob: $before ms undisturbed, $during ms beside $readers_count stalled readers: $ratio"

  if [[ $checked == no ]]; then
    checked=yes
    note "a reader that is killed while it waits, dies"
    kill -KILL "${readers[0]}"
    wait_until gone "${readers[0]}" || fail "it does not die"
    note "the others get an error at their deadline, and no byte"
    for ((i = 1; i < readers_count; ++i)); do
      wait "${readers[i]}" && fail "reader $i of the stalled blob was given something"
      grep -q 'Input/output error' "$work/dd.$i" || fail "reader $i: $(cat "$work/dd.$i")"
      [[ ! -s $work/read.$i ]] || fail "reader $i was given bytes"
    done
  else
    kill -KILL "${readers[@]}" 2>/dev/null || true
    for pid in "${readers[@]}"; do wait_until gone "$pid" || fail "a killed reader does not die"; done
  fi
  [[ -n $best ]] && awk -v a="$ratio" -v b="$best" 'BEGIN { exit !(a >= b) }' || best=$ratio
  if awk -v ratio="$ratio" -v max="$ratio_max" 'BEGIN { exit !(ratio <= max) }'; then break; fi
done
[[ -n $best ]] || fail "no measurement was over before the readers' deadline: $(cat "$work"/dd.*)"
awk -v ratio="$best" -v max="$ratio_max" 'BEGIN { exit !(ratio <= max) }' ||
  fail "reads of the other blob take $best times as long beside a stalled one"

note "the registry answers again"
rm -f "$work/stall"
all_right() { cmp "$largest" "$work/stalled/$name" >"$work/cmp.log" 2>&1; }
wait_until all_right || fail "reads of the stalled blob do not recover"
