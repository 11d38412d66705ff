#!/usr/bin/env bash
# What readyz says while something that the node needs does not work, and that it takes it back: a frozen disk, one
# that takes no writes, a keeper that is stopped, an aborted FUSE connection. livez says of all of them that the node
# lives: a restart would help nobody.
source "$(dirname "$0")/lib.sh"

# The data directory on a file system of its own.
truncate -s 256M "$work/disk"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk"
mkdir "$work/tree" "$data_dir"
mount -o loop "$work/disk" "$data_dir"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 8000000
start_registry
start_node
push_tree "$work/tree" app
mount_image app "$work/mnt"
present=$(find "$work/tree" -type f -size +100k -printf '%P\n' | sort | head -n 1)
cmp "$work/tree/$present" "$work/mnt/$present" || fail "the mount's file is not what was pushed"

ready() { curl -fs -o "$work/readyz" "http://$listen/readyz"; }
not_ready() {
  [[ $(curl -s -o "$work/readyz" -w '%{http_code}' "http://$listen/readyz") == 503 ]] && grep -Eq -- "$1" "$work/readyz"
}
expect_not_ready() {
  wait_until not_ready "$1" || fail "readyz should say '$1': $(<"$work/readyz")"
  curl -fsS -o "$work/livez" "http://$listen/livez" || fail "the node is not said to live: $(<"$work/readyz")"
}
expect_ready_again() { wait_until ready || fail "the node is not ready again: $(<"$work/readyz")"; }

# No writes, for longer than one may take. What is frozen can't be unmounted.
trap 'status=$?; fsfreeze -u "$data_dir" 2>/dev/null; cleanup "$status"' EXIT
fsfreeze -f "$data_dir"
expect_not_ready 'hangs or is frozen'
cmp "$work/tree/$present" "$work/mnt/$present" || fail "what is present is not served beside a frozen disk"
fsfreeze -u "$data_dir"
trap cleanup EXIT
expect_ready_again

keeper=$(keeper_pid)
kill -STOP "$keeper"
expect_not_ready "the keeper, process $keeper, has not answered"
kill -CONT "$keeper"
expect_ready_again
cmp "$work/tree/$present" "$work/mnt/$present" || fail "reads do not go on after the keeper did"

# As the kernel makes of one whose disk fails: read-only, for good.
mount -o remount,abort "$data_dir"
expect_not_ready 'takes no write'
cmp "$work/tree/$present" "$work/mnt/$present" || fail "what is present is not served from a disk that takes no writes"

[[ ${BACKEND:-fanotify} == fuse ]] || exit 0
# The connection has the number of the keeper's file system, to which no path leads.
connection_of_keeper() {
  local file
  for file in "/proc/$keeper/fd"/*; do
    [[ $(stat -Lfc %T "$file" 2>"$work/stat.log") != fuse* ]] || stat -Lc %Ld "$file"
  done | head -n 1
}
connection=$(connection_of_keeper)
[[ -n $connection ]] || fail "the keeper has no FUSE connection"
mkdir "$work/fusectl"
mount -t fusectl none "$work/fusectl"
echo 1 >"$work/fusectl/$connection/abort"
umount "$work/fusectl"
expect_not_ready "the kernel's side of fuse is gone"
sluice umount "$work/mnt" >&2 || fail "a mount of an aborted connection can't be taken away"
