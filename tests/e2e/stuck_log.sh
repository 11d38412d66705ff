#!/usr/bin/env bash
# Whoever reads the node's log stops reading: log lines are lost and counted, reads and unmounts are not. SIGHUP opens
# the logs' files anew, and stops nobody.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 32M /dev/urandom >"$work/tree/a"
head -c 16M /dev/urandom >"$work/tree/b"
start_registry
mkfifo "$work/log"
# shellcheck disable=SC2217  # it has it open, and does not read
sleep 1000 <"$work/log" &
exec 7>"$work/log"
READ_DEADLINE=4s write_config
setsid "$SLUICE_BIN/sluiced" --config "$config" 2>&7 &
node_pid=$!
disown
node_is_ready || fail "the node does not become ready"
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
same() { cmp -s <(dd if="$mount/$1" bs=1M skip="$2" count=1 status=none) <(dd if="$work/tree/$1" bs=1M skip="$2" count=1 status=none); }
same a 1 || fail "a read before"

python3 - <<'END'
import os
os.set_blocking(7, False)
for n in (4096, 1):
    try:
        while True: os.write(7, b"x" * n)
    except BlockingIOError:
        pass
os.set_blocking(7, True)
END
address=$registry
stop_registry
same b 1 && fail "a read without its registry"
start_registry "$address"
for i in 8 16 24; do same a "$i" || fail "a read fails while nobody reads the log"; done
[[ $(curl -s -o "$work/livez" -w '%{http_code}' "http://$listen/livez") == 503 ]] || fail "livez says that all is well"
grep -q 'log' "$work/livez" || fail "livez does not say why: $(<"$work/livez")"
timeout 20 "$SLUICE_BIN/sluice" --socket "$run_dir/api.sock" umount "$mount" || fail "umount waits for the log"
started=$SECONDS
stop_node
((SECONDS - started < 20)) || fail "a stop waits for the log"

# Its file is moved away, as logrotate does.
restart_node
mount_image app "$mount"
keeper=$(keeper_pid)
mv "$node_log" "$node_log.1"
mv "$run_dir/keeper.log" "$run_dir/keeper.log.1"
kill -HUP "$node_pid"
wait_until test -s "$node_log" || fail "SIGHUP does not open the log anew"
wait_until test -e "$run_dir/keeper.log" || fail "SIGHUP does not reach the keeper's log"
sleep 0.2
alive "$node_pid" || fail "SIGHUP ended the node"
[[ $(keeper_pid) == "$keeper" ]] || fail "SIGHUP ended the keeper"
same a 2 || fail "a read after SIGHUP"
