#!/usr/bin/env bash
# Upgrades to a version whose daemon and keeper speak another protocol, and back, under readers of a mounted image: the
# keeper that runs becomes the other version's, nobody unmounts anything, and every byte is right.
source "$(dirname "$0")/lib.sh"

# other_node COMMAND...: with the other version's sluiced, which has its own keeper beside it.
other_node() { SLUICE_BIN=${OTHER_BIN:?the other version is needed} "$@"; }

# keeper_is BIN: the process that was the keeper at first runs the program beside that folder's sluiced.
keeper_is() {
  [[ $(keeper_pid) == "$keeper" ]] || fail "the keeper is process $(keeper_pid), and was $keeper"
  [[ $(readlink "/proc/$keeper/exe") == "$(realpath "$1/../libexec/sluice-keeper")" ]]
}

start_reader() {
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" "$@" >"$work/compare.log" 2>&1 &
  reader=$!
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes "${TREE_BYTES:-48000000}"
start_registry
READ_DEADLINE=60s start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
keeper=$(keeper_pid)

note "a reader of what is absent waits, and gets it from the other version"
timeout 20 cmp "$mount/usr/lib1/part1/file1" "$work/tree/usr/lib1/part1/file1" || fail "a file can't be read"
stop_node
start_reader
sleep 1
alive "$reader" || fail "the reader did not wait: $(<"$work/compare.log")"
other_node restart_node
wait "$reader" || fail "after the upgrade: $(<"$work/compare.log")"
keeper_is "$OTHER_BIN" || fail "the keeper is still $(readlink "/proc/$keeper/exe")"
[[ $(sluice --output json status | jq -r '.mounts[].mount_point') == "$mount" ]] || fail "the mount is not listed"

note "and back and forth, in the middle of reads"
for round in $(seq "${ROUNDS:-4}"); do
  make_cold app "$mount"
  start_reader --seed "$round"
  sleep "0.$round"
  # A daemon that is killed has its reads taken up by the next one.
  stop_node "$( ((round % 2)) && echo KILL || echo TERM)"
  if ((round % 2)); then restart_node; else other_node restart_node; fi
  wait "$reader" || fail "round $round: $(<"$work/compare.log")"
  if ((round % 2)); then keeper_is "$SLUICE_BIN"; else keeper_is "$OTHER_BIN"; fi ||
    fail "round $round: the keeper is $(readlink "/proc/$keeper/exe")"
done

note "it stays what it is where the other's program is none, and says so; nobody's mount is touched"
make_cold app "$mount"
start_reader --seed 6
stop_node
for program in "$config" "$(command -v true)"; do
  cp "$config" "$work/good.yaml"
  sed -i "s|^ondemand:|&\n  keeper: $program|" "$config"
  launch_node
  wait_until gone "$node_pid" || fail "a node starts though the keeper can't become one of its version"
  cp "$work/good.yaml" "$config"
  grep -q "another version of sluice.*process $keeper\|process $keeper.*another version of sluice" "$node_log" ||
    fail "the node does not name the keeper"
done
alive "$reader" || fail "the reader did not wait: $(<"$work/compare.log")"
other_node restart_node
wait "$reader" || fail "after the refusals: $(<"$work/compare.log")"
keeper_is "$OTHER_BIN" || fail "the keeper is $(readlink "/proc/$keeper/exe")"

note "the daemon is killed at whatever moment of it"
make_cold app "$mount"
start_reader --seed 7
for moment in ${MOMENTS:-0.01 0.03 0.05 0.06 0.07 0.08 0.09 0.1 0.12 0.15 0.2}; do
  stop_node KILL
  SLUICE_BIN=$OTHER_BIN launch_node
  sleep "$moment"
  stop_node KILL
  launch_node
  sleep "$moment"
done
stop_node KILL
restart_node
wait "$reader" || fail "after the kills: $(<"$work/compare.log")"
keeper_is "$SLUICE_BIN" || fail "the keeper is $(readlink "/proc/$keeper/exe")"

note "another build of this version takes its place likewise"
make_cold app "$mount"
start_reader --seed 9
stop_node
cp "$config" "$work/good.yaml"
mkdir -p "$work/build/bin" "$work/build/libexec"
cp "$SLUICE_BIN/../libexec/sluice-keeper" "$work/build/libexec/"
sed -i "s|^ondemand:|&\n  keeper: $work/build/libexec/sluice-keeper|" "$config"
restart_node
wait "$reader" || fail "with another build: $(<"$work/compare.log")"
keeper_is "$work/build/bin" || fail "the keeper is $(readlink "/proc/$keeper/exe")"
cp "$work/good.yaml" "$config"

note "the keeper that has become another one is succeeded when it is killed, and leaves after the last unmount"
make_cold app "$mount"
start_reader --seed 8
kill -KILL "$keeper"
wait "$reader" || fail "after the keeper was killed: $(<"$work/compare.log")"
wait_until sluice umount "$mount" || fail "the image can't be unmounted"
sluice mount "$registry/app:1" "$mount" >&2
[[ $(checksum_of "$mount") == $(checksum_of "$work/tree") ]] || fail "the tree differs"
sluice umount "$mount"
stop_node
no_keeper() { [[ -z $(keeper_pid) ]]; }
wait_until no_keeper || fail "the keeper does not leave"
