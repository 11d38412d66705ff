#!/usr/bin/env bash
# kill -9 of sluiced and its keeper at once, under systemd and our own unit: what the kernel waits for is in the service
# manager's hands meanwhile. Readers that waited get the right bytes from the next sluiced, or an error; never zeros.
# The manager is a private one of the script's: systemd --user, with a mount namespace in which it seems booted.
if [[ -z ${IN_OWN_MOUNTS-} ]]; then
  exec env IN_OWN_MOUNTS=yes unshare --mount --propagation private bash "$0" "$@"
fi
source "$(dirname "$0")/lib.sh"

readonly rounds=${BOTH_KILLS:-5}
manager_pid=
export XDG_RUNTIME_DIR=$work/xdg SYSTEMD_LOG_TARGET=console

service() { systemctl --user "$@"; }
manager_listens() { service show-environment >"$work/environment" 2>&1; }
main_pid() { service show -P MainPID sluiced; }
is_active() { [[ $(service is-active sluiced) == active ]]; }
stored() { service show -P NFileDescriptorStore sluiced; }

start_manager() {
  mkdir -p /run/systemd
  mount -t tmpfs none /run/systemd
  mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR/systemd/user"
  chmod 700 "$XDG_RUNTIME_DIR"
  sed -e "s|^ExecStart=.*|ExecStart=$SLUICE_BIN/sluiced --config $config\nStandardError=append:$node_log|" \
    "$repository_root/node/daemon/sluiced.service" >"$XDG_RUNTIME_DIR/systemd/user/sluiced.service"
  setsid /lib/systemd/systemd --user --unit=basic.target >"$work/manager.log" 2>&1 &
  manager_pid=$!
  disown
  wait_until manager_listens || fail "systemd does not start: $(cat "$work/manager.log" "$work/environment")"
}

end_manager() {
  local status=$?
  [[ -z $manager_pid ]] || { service stop sluiced; end_process "$manager_pid" TERM; } 2>/dev/null
  cleanup "$status"
}

start_service() {
  service start sluiced || { service status sluiced >&2; fail "sluiced does not start: $(tail -n 20 "$work/manager.log")"; }
}

# Both at once, the daemon first: else it puts another keeper there.
kill_both() {
  local daemon keeper
  daemon=$(main_pid)
  keeper=$(keeper_pid)
  [[ -n $keeper && $daemon -gt 0 ]] || fail "daemon '$daemon' or keeper '$keeper' is not there"
  kill -KILL "$daemon" "$keeper"
}

# Without a process the number is 0.
restarted() { [[ $(main_pid) != 0 && $(main_pid) != "$1" ]] && is_active; }

await_restart() { wait_until restarted "$1" || fail "sluiced is not started again"; }

# A reader waits for the registry, which does not answer, when all that could answer the reader dies.
kill_round() {
  local reader before status=0
  make_cold app "$mount"
  before=$(main_pid)
  kill -STOP "$registry_pid"
  checksum_of "$mount" >"$work/sum" 2>"$work/tar.log" &
  reader=$!
  sleep 0.5
  alive "$reader" || fail "the reader did not wait"
  kill_both
  # Nobody but the service manager holds anything now.
  sleep 0.2
  alive "$reader" || fail "the reader did not wait for the next sluiced: $(cat "$work/tar.log" "$work/sum")"
  kill -CONT "$registry_pid"
  await_restart "$before"
  wait "$reader" || status=$?
  ((status == 0)) || fail "the reader got an error: $(head -n 3 "$work/tar.log")"
  [[ $(<"$work/sum") == "$expected" ]] || fail "the reader got wrong bytes"
  [[ $(stored) == 4 ]] || fail "systemd keeps $(stored) descriptors for us, not 4"
}

mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 24000000 --files 100
expected=$(checksum_of "$work/tree")
start_registry
push_tree "$work/tree" app
write_config
start_manager
trap end_manager EXIT
start_service
mount=$work/mnt/app
mount_image app "$mount"

for ((round = 1; round <= rounds; ++round)); do
  kill_round
  note "round $round of $rounds: right"
done

note "what is complete is read right after both were killed"
before=$(main_pid)
kill_both
await_restart "$before"
drop_page_cache
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong afterwards"

note "a keeper that is alive is found, and given no rival, wherever that has its runtime directory"
keeper=$(keeper_pid)
before=$(main_pid)
sed -i "s|^runtimeDir: .*|runtimeDir: $work/elsewhere|" "$config"
service restart sluiced || fail "sluiced does not start with another runtime directory"
await_restart "$before"
[[ $(pgrep -f "^[^ ]*sluice-keeper.*$work") == "$keeper" ]] || fail "another keeper is there beside $keeper"
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong with another runtime directory"

note "mounts that wait are not forgotten by a node without a door"
service stop sluiced
sed -i "s|^runtimeDir: .*|runtimeDir: $run_dir|" "$config"
start_service
before=$(main_pid)
sed -i "s|^  backend: .*|  backend: off|" "$config"
kill_both
wait_until grep -q 'readers wait at mounts' "$node_log" || fail "sluiced should not start without a door"
sed -i "s|^  backend: .*|  backend: auto|" "$config"
await_restart "$before"
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong after backend: off"
sed -i "s|^  backend: .*|  backend: ${BACKEND:-fanotify}|" "$config"

note "nothing is left over when nothing is mounted"
sluice umount "$mount" >&2
before=$(main_pid)
service restart sluiced
await_restart "$before"
[[ $(stored) == 4 ]] || fail "systemd keeps $(stored) descriptors for us after a restart, not 4"
before=$(main_pid)
kill_both
await_restart "$before"
mount_image app "$mount"
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong after a kill without mounts"
sluice umount "$mount" >&2
service stop sluiced
wait_until gone "$(keeper_pid)" || fail "the keeper stays though nothing is mounted"
[[ $(stored) == 0 ]] || fail "systemd keeps $(stored) descriptors of a stopped node"
