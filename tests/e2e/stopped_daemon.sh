#!/usr/bin/env bash
# A daemon that hangs (SIGSTOP): the keeper refuses its readers at their deadline with EIO, and never lets zeros
# through; when the daemon goes on, its late answers harm nobody.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 32000000
start_registry
READ_DEADLINE=2s start_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
drop_page_cache

# Its threads stop one after the other.
stopped() { ! grep -h '^State:' "/proc/$node_pid/task/"*/status | grep -qv 'T (stopped)'; }
kill -STOP "$node_pid"
wait_until stopped || fail "the daemon does not stop"
started=$SECONDS
expect_failure 1 'input/output error' cat "$mount/usr/lib1/part1/file1"
((SECONDS - started <= 20)) || fail "the refusal took $((SECONDS - started)) s at a deadline of 2 s"
[[ -z $(cat "$mount/usr/lib1/part1/file1" 2>"$work/cat.log" | head -c 1) ]] || fail "a refused reader was given bytes"

kill -CONT "$node_pid"
wait_until curl -fs -o "$work/readyz" "http://$listen/readyz" || fail "the daemon does not go on"
wait_until reads_right "$work/tree" "$mount" || fail "reads do not recover: $(tail -n 5 "$work/compare.log")"

# Nobody but the keeper knows of them.
[[ $(metric sluice_read_errors_total) -ge 1 ]] || fail "no metric counts the reads that failed"
sluice --output json status >"$work/status.json"
jq -e '.read_errors >= 1 and .mounts[0].read_errors >= 1 and (.mounts[0].last_error | test("deadline"))' \
  "$work/status.json" >"$work/jq.log" || fail "status knows of no error: $(<"$work/status.json")"
