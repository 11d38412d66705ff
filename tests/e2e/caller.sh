#!/usr/bin/env bash
# What the caller leaves to a node: a umask, closed standard streams, a call that is given up, options of a mount.
source "$(dirname "$0")/lib.sh"

mkdir -p "$work/tree/dev" "$work/tree/bin"
head -c 16M /dev/urandom >"$work/tree/a"
mknod -m 666 "$work/tree/dev/null" c 1 3
cp "$(command -v id)" "$work/tree/bin/id"
chmod 4755 "$work/tree/bin/id"
start_registry
mount=$work/mnt/app

# --- the same modes whatever the umask
modes() { (cd "$work" && find data run -maxdepth 1 '(' -type d -o -type s ')' -printf '%m %p\n' | sort -k2); }
rmdir "$run_dir"
for mask in 000 022 077; do
  write_config
  rm -rf "$data_dir" "$run_dir"
  node_runner=(bash -c "umask $mask; exec \"\$@\"" -)
  launch_node
  node_runner=()
  node_is_ready || fail "the node does not become ready with umask $mask"
  modes >"$work/modes.$mask"
  [[ -z $(find "$data_dir" "$run_dir" -maxdepth 1 -perm /002 ! -type l ! -type s) ]] ||
    fail "with umask $mask others may write: $(find "$data_dir" "$run_dir" -maxdepth 1 -perm /002)"
  stop_node
  done
cmp "$work/modes.000" "$work/modes.022" && cmp "$work/modes.022" "$work/modes.077" || fail "modes differ by umask"

# --- closed standard streams
write_config
node_runner=(bash -c 'exec "$@" <&- >&- 2>&-' -)
launch_node
node_runner=()
node_is_ready || fail "the node does not become ready without standard streams"
for stream in 0 1 2; do
  [[ $(readlink "/proc/$node_pid/fd/$stream") == /dev/null ]] ||
    fail "stream $stream is $(readlink "/proc/$node_pid/fd/$stream")"
done
push_tree "$work/tree" app

# --- options
mount_image app "$mount"
options() { findmnt -no OPTIONS "$mount"; }
[[ $(options) != *nosuid* && $(options) != *nodev* && $(options) != *noexec* ]] || fail "by default: $(options)"
[[ $(setpriv --reuid 65534 --regid 65534 --clear-groups "$mount/bin/id" -u) == 0 ]] || fail "set-user-ID has no effect"
echo x >"$mount/dev/null" || fail "the image's /dev/null does not work"
sluice umount "$mount"
mount_image app "$mount" -o nosuid,nodev -o noexec
[[ $(options) == *nosuid* && $(options) == *nodev* && $(options) == *noexec* ]] || fail "as asked for: $(options)"
(echo x >"$mount/dev/null") 2>"$work/output" && fail "a device works despite nodev"
sluice umount "$mount"
expect_failure "$exit_usage" 'nosuid' sluice mount -o rw "$registry/app:1" "$mount"

# --- given up by its caller
kill -STOP "$registry_pid"
"$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" mount "$registry/app:1" "$mount" >"$work/output" 2>&1 &
tool=$!
connected() { ss -tn state established 2>/dev/null | grep -q "$registry"; }
wait_until connected || fail "the node does not ask the registry"
kill -KILL "$tool"
wait "$tool" || true
kill -CONT "$registry_pid"
# The next call is answered after the other one's end was decided: both wait for the same answer.
again() { sluice mount "$registry/app:1" "$work/mnt/second" >"$work/output" 2>&1; }
mkdir "$work/mnt/second"
wait_until again || fail "another mount: $(<"$work/output")"
sluice umount "$work/mnt/second"
if mountpoint -q "$mount"; then fail "what its caller gave up was mounted"; fi
