#!/usr/bin/env bash
# Daemon, keeper, tool and readers in other PID, time and mount namespaces: deadlines hold, and what would be mounted
# where nobody looks is refused.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 32M /dev/urandom >"$work/tree/a"
start_registry
mount=$work/mnt/app
same() { cmp -s <(dd if="$mount/a" bs=1M skip="$1" count=1 status=none) <(dd if="$work/tree/a" bs=1M skip="$1" count=1 status=none); }

# --- the kernel names no reader to a keeper in a PID namespace below its own
READ_DEADLINE=3s write_config
setsid unshare -pf "$SLUICE_BIN/sluiced" --config "$config" >>"$node_log" 2>&1 &
outer=$!
disown
node_pid=$outer
node_is_ready || fail "the node does not become ready in a PID namespace"
node_pid=$(pgrep -P "$outer")
push_tree "$work/tree" app
mount_image app "$mount"
kill -STOP "$registry_pid"
refused() { # refused KIND OFFSET_MIB LENGTH: reads what is absent; prints how many ms that took
  python3 - "$1" "$mount/a" "$2" "$3" <<'END'
import mmap, os, sys, time
kind, path, offset, length = sys.argv[1], sys.argv[2], int(sys.argv[3]) << 20, int(sys.argv[4])
start = time.monotonic()
if os.fork() == 0:
    file = os.open(path, os.O_RDONLY)
    try:
        if kind == "read": os.pread(file, length, offset)
        else: mmap.mmap(file, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)[0]
        os._exit(7)
    except OSError:
        os._exit(0)
_, status = os.wait()
if os.waitstatus_to_exitcode(status) == 7: sys.exit("bytes came from a registry that is stopped")
print(round((time.monotonic() - start) * 1000))
END
}
for what in "read 2 4096" "read 8 1048576" "fault 20 4194304"; do
  read -r kind offset length <<<"$what"
  took=$(refused "$kind" "$offset" "$length") || fail "$what"
  note "$what: refused after $took ms"
  # Two deadlines of 3 s would be 6 s.
  ((took < 5700)) || fail "$what: an error after $took ms at a deadline of 3 s"
done
kill -CONT "$registry_pid"
wait_until same 9 || fail "reads do not recover"
sluice umount "$mount"
stop_node
wait_until gone "$outer" || fail "the PID namespace does not end"

# --- the tool in a PID namespace of its own, which sees neither daemon nor keeper; with its own /proc and mount namespace
start_node
unshare -pf "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" mount "$registry/app:1" "$mount" >&2 ||
  fail "a mount from another PID namespace"
same 24 || fail "a read of what was mounted from another PID namespace"
unshare -pf "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" umount "$mount" >&2 || fail "umount from another PID namespace"
if mountpoint -q "$mount"; then fail "umount from another PID namespace leaves the mount"; fi
in_namespaces=(unshare -pf --mount-proc --propagation private "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock")
expect_failure "$exit_refused" 'mount namespace' "${in_namespaces[@]}" mount "$registry/app:1" "$mount"
if mountpoint -q "$mount"; then fail "a mount that its caller can't see was left"; fi
mount_image app "$mount"
"${in_namespaces[@]}" --output json status | jq -e '.mounts | length == 1' >/dev/null || fail "status from other namespaces"

# --- the daemon in a PID namespace below its keeper's, and back
keeper=$(keeper_pid)
expect_keeper() { [[ $(keeper_pid) == "$keeper" ]] || fail "$1: another keeper"; }
sees_peers() { ((kernel[0] > 6 || kernel[0] == 6 && kernel[1] >= 5)); }  # SO_PEERPIDFD
IFS=. read -ra kernel <<<"$(uname -r)"
kernel[1]=${kernel[1]%%[^0-9]*}
launch_below() {
  setsid unshare -pf "$SLUICE_BIN/sluiced" --config "$config" >>"$node_log" 2>&1 &
  outer=$!
  disown
  node_pid=$outer
}
stop_node
launch_below
if sees_peers; then
  node_is_ready || fail "the node does not attach from a PID namespace below its keeper's"
  node_pid=$(pgrep -P "$outer")
  expect_keeper "daemon below"
  same 6 || fail "a read with the daemon in a PID namespace below its keeper's"
  mkdir -p "$work/mnt/below"
  mount_image app "$work/mnt/below"
  sluice umount "$work/mnt/below" >&2
  stop_node KILL
else
  wait_until gone "$outer" || fail "a daemon that can't see its keeper does not end"
  grep -q 'PID namespace that is not seen' "$node_log" || fail "it does not say why"
fi
wait_until gone "$outer" || fail "the PID namespace does not end"
restart_node
expect_keeper "daemon back"
same 30 || fail "a read after the daemon is back"
sluice umount "$mount" >&2
stop_node
keeper_is_gone() { [[ -z $(keeper_pid) ]]; }
wait_until keeper_is_gone || fail "the keeper does not leave"

# --- the daemon in the PID namespace above its keeper's
# shellcheck disable=SC2016
setsid unshare -pf --kill-child bash -c '"$0" --config "$1" >>"$2" 2>&1 & exec sleep 1000' \
  "$SLUICE_BIN/sluiced" "$config" "$node_log" &
outer=$!
disown
node_pid=$outer
node_is_ready || fail "the node does not become ready in a PID namespace that lives on"
node_pid=$(pgrep -f "^$SLUICE_BIN/sluiced --config $config")
mount_image app "$mount"
keeper=$(keeper_pid)
stop_node
launch_node
if sees_peers; then
  node_is_ready || fail "the node does not attach from the PID namespace above its keeper's"
  expect_keeper "daemon above"
  same 4 || fail "a read with the daemon in the PID namespace above its keeper's"
  sluice umount "$mount" >&2
  stop_node
else
  wait_until gone "$node_pid" || fail "a daemon that its keeper can't see does not end"
  umount "$mount"
fi
kill -KILL "$(pgrep -P "$outer")"
wait_until gone "$outer" || fail "the PID namespace does not end"
wait_until keeper_is_gone || fail "the keeper does not end with its PID namespace"

# --- another CLOCK_MONOTONIC than the keeper's
READ_DEADLINE=3s start_node
mount_image app "$mount"
stop_node
# Older kernels let only a child into a new one.
setsid unshare -T --fork --monotonic 100000 --boottime 100000 "$SLUICE_BIN/sluiced" --config "$config" >>"$node_log" 2>&1 &
outer=$!
disown
node_pid=$outer
node_is_ready || fail "the node does not become ready in a time namespace"
node_pid=$(pgrep -P "$outer")
same 12 || fail "a read fails with the daemon in another time namespace"
stop_node
wait_until gone "$outer" || fail "the daemon in a time namespace does not end"
kill -STOP "$registry_pid"
restart_node
took=$(refused read 16 4096) || fail "a read without its registry"
((took < 9000)) || fail "an error after $took ms at a deadline of 3 s"
kill -CONT "$registry_pid"

# --- another mount namespace
mkdir -p "$work/mnt/other"
expect_failure "$exit_refused" 'mount namespace' \
  unshare -m --propagation private "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" mount "$registry/app:1" "$work/mnt/other"
if mountpoint -q "$work/mnt/other"; then fail "a mount that its caller can't see was left"; fi
stop_node
node_runner=(unshare -m --propagation private)
launch_node
node_runner=()
node_is_ready || fail "the node does not become ready in a mount namespace"
expect_failure "$exit_refused" 'mount namespace' sluice mount "$registry/app:1" "$work/mnt/other"
wait_until same 28 || fail "the mount in the keeper's namespace is not served"
