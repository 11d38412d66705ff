#!/usr/bin/env bash
# Who uses what is mounted, and an end of all mounts: refused to who is in use, named by process and file; by force their
# readers get errors first, those that wait too, and nothing of the node is left behind.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 24M /dev/urandom >"$work/tree/a"
cp /bin/sleep "$work/tree/program"
start_registry
start_node
push_tree "$work/tree" app
used=$work/mnt/used idle=$work/mnt/idle
mount_image app "$used"
mount_image app "$idle"
pids=()
end_users() { for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done; }
trap 'status=$?; end_users; cleanup "$status"' EXIT

# use NAME COMMAND...: a process by whose link or descriptor in /proc the mount is known to be in use.
use() {
  "${@:2}" >"$work/$1.log" 2>&1 &
  pids+=($!)
}
uses_mount() { [[ -n $(find "/proc/$1" -maxdepth 2 -lname "$used*" 2>/dev/null) ]]; }

note "who uses what"
use program "$used/program" 1000
use folder sh -c 'cd "$0" && exec sleep 1000' "$used"
use file sh -c 'exec sleep 1000 <"$0/a"' "$used"
use mapping python3 -c 'import mmap, sys, time
file = open(sys.argv[1], "rb")
kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
file.close()
print("mapped", flush=True)
time.sleep(1000)' "$used/a"
for i in 0 1 2; do wait_until uses_mount "${pids[i]}" || fail "process $i does not use the mount"; done
wait_until grep -q mapped "$work/mapping.log" || fail "nothing is mapped: $(<"$work/mapping.log")"
sluice --output json status --holders >"$work/holders.json"
paths=("$used/program" "$used" "$used/a" "$used/a")
for i in 0 1 2 3; do
  jq -e --arg point "$used" --argjson pid "${pids[i]}" --arg path "${paths[i]}" \
    '.complete and any(.mounts[] | select(.mount_point == $point).holders[]; .pid == $pid and .path == $path and .pod == null)' \
    "$work/holders.json" >"$work/answer" || fail "process $i is not told of: $(<"$work/holders.json")"
done
jq -e --arg point "$idle" 'any(.mounts[]; .mount_point == $point and .holders == [])' "$work/holders.json" >"$work/answer" ||
  fail "a mount that nobody uses: $(<"$work/holders.json")"

note "what is in use is not ended"
expect_failure "$exit_refused" 'in use by 4 processes' sluice umount --all --dry-run
mountpoint -q "$idle" || fail "a dry run unmounts"
if sluice umount --all >"$work/said" 2>"$work/error"; then fail "a busy mount is ended: $(<"$work/said")"; fi
for pid in "${pids[@]}"; do grep -q "pid $pid (.*uses $used" "$work/said" || fail "pid $pid is not named: $(<"$work/said")"; done
grep -q '1 of 2 images are mounted still' "$work/error" || fail "it says: $(<"$work/error")"
if mountpoint -q "$idle"; then fail "what nobody uses is mounted still"; fi
reads_right "$work/tree" "$used" --reads 20 || fail "reads go wrong after what was refused"

note "by force: who waits for a registry that says nothing gets an error at once, and everything is unmounted"
end_users
pids=()
not_mounted() { sluice umount "$used" >"$work/answer" 2>&1; }
wait_until not_mounted || fail "nobody uses it: $(<"$work/answer")"
make_cold app "$used"
kill -STOP "$registry_pid"
use waiting dd if="$used/a" of=/dev/null bs=4096 skip=4096 count=1
use file sh -c 'exec sleep 1000 <"$0/a"' "$used"
a_read_waits() { (($(metric sluice_reads_waiting) > 0)); }
wait_until a_read_waits || fail "no read waits: $(<"$work/waiting.log")"
alive "${pids[0]}" || fail "the reader does not wait"
keeper=$(keeper_pid)
sluice umount --all --force >"$work/said" || fail "it fails: $(<"$work/said")"
grep -q "^unmounted $used .*whose readers get errors now" "$work/said" || fail "it says: $(<"$work/said")"
wait "${pids[0]}" && fail "a reader got bytes of a registry that gives none"
grep -q 'Input/output error' "$work/waiting.log" || fail "the reader got: $(<"$work/waiting.log")"
if mountpoint -q "$used"; then fail "it is still mounted"; fi
kill -CONT "$registry_pid"
sluice status --holders >"$work/said"
grep -q "$used .*(not mounted any more)" "$work/said" || fail "who uses it still is not told: $(<"$work/said")"
expect_failure "$exit_refused" 'unmounted by force is used still' sluice mount "$registry/app:1" "$used"

note "once nobody uses it, images are mounted and read as before"
end_users
pids=()
mounts_again() { sluice mount "$registry/app:1" "$used" >"$work/answer" 2>&1; }
wait_until mounts_again || fail "can't be mounted: $(<"$work/answer")"
reads_right "$work/tree" "$used" --reads 20 || fail "reads go wrong after an end by force"

note "a node that ends after an end by force leaves no keeper, though somebody holds a file"
use file sh -c 'exec sleep 1000 <"$0/a"' "$used"
wait_until uses_mount "${pids[0]}" || fail "nobody uses the mount"
sluice umount --all --force >&2
stop_node
if [[ ${BACKEND:-fanotify} == fuse ]]; then
  wait_until gone "$keeper" || fail "the keeper stays for what only gets errors"
else
  end_users
  wait_until gone "$keeper" || fail "the keeper stays though nobody uses anything"
fi
