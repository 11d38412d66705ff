#!/usr/bin/env bash
# Daemon and keeper killed at once, with nobody to hold what the kernel waits for, while a process stands in the mount:
# the mount is dead, and does not go. The next daemon takes it down, and the same image mounted again is read right,
# whatever the kernel remembers of the dead one.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
cat "$mount/usr/lib1/part1/file1" >"$work/output" || fail "the image is not read"

kill_both() {
  local keeper
  keeper=$(keeper_pid)
  kill -KILL "$node_pid" "$keeper"
  wait_until gone "$node_pid" && wait_until gone "$keeper"
}

# Reads nothing of the dead mount, and keeps it.
stand_in() {
  (cd "$1" && exec sleep 1000) &
  standing=$!
  wait_until stands || fail "nobody stands in $1"
}
stands() { [[ $(readlink "/proc/$standing/cwd") == "$mount" && $(<"/proc/$standing/comm") == sleep ]]; }

for round in 1 2; do
  note "round $round"
  stand_in "$mount"
  first=${first:-$standing}
  kill_both
  restart_node
  mountpoint -q "$mount" && fail "a dead mount is left at its place"
  mount_image app "$mount"
  drop_page_cache
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/compare.log" 2>&1 ||
    fail "mounted anew, it is not read right: $(tail -n 5 "$work/compare.log")"
done

note "a stranger's image at the place of a dead one is left alone"
mkfs.erofs --quiet "$work/stranger.erofs" "$e2e_dir" >"$work/mkfs.log" 2>&1
kill_both
umount -l "$mount"
mount -t erofs -o ro,loop "$work/stranger.erofs" "$mount"
restart_node
[[ -e $mount/dead_mount.sh ]] || fail "a stranger's mount was taken down"
umount "$mount"
mount_image app "$mount"

note "and once more when nobody stands in a dead one any more"
kill "$first" "$standing"
sluice umount "$mount" >&2
mount_image app "$mount"
drop_page_cache
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "in the end it is not read right"
sluice umount "$mount" >&2
