#!/usr/bin/env bash
# A keeper that outlives its pod. The daemon runs as in a privileged pod with hostPID: in namespaces of its own, where
# the mount point is another folder than the host's, and in cgroups whose every process is killed with them. Readers on
# the host that wait meanwhile get the right bytes from the daemon of the next pod.
source "$(dirname "$0")/lib.sh"

# The host is where the first process is, or if that may not be looked at, where the pod's parents are.
host_mounts=$(readlink /proc/self/ns/mnt)
host_cgroups=$(readlink /proc/self/ns/cgroup)
[[ $(readlink /proc/1/ns/mnt || echo "$host_mounts") == "$host_mounts" ]] ||
  fail "this must run where the first process's mounts are seen"
cgroups=$work/cgroup
pods=0
cgroups_of_pods=()
reader=

end_pods() {
  local status=$? folder pid
  for folder in "${cgroups_of_pods[@]}"; do
    while read -r pid; do kill -KILL "$pid"; done <"$folder/cgroup.procs"
    for ((i = 0; i < 100; ++i)); do rmdir "$folder" 2>/dev/null && break; sleep 0.05; done
  done
  cleanup "$status"
}
trap end_pods EXIT

# launch_node: a pod with a cgroup of the second version, whose end is cgroup.kill, and with one of the first, if there is any.
launch_node() {
  pods=$((pods + 1))
  cgroups_of_pods=("$cgroups/sluice-pod-$$-$pods")
  [[ ! -e /sys/fs/cgroup/pids/cgroup.procs ]] || cgroups_of_pods+=("/sys/fs/cgroup/pids/sluice-pod-$$-$pods")
  mkdir "${cgroups_of_pods[@]}"
  # shellcheck disable=SC2016  # the pod's shells expand it
  setsid bash -c '
    for folder in "${@:4}"; do echo 0 >"$folder/cgroup.procs"; done
    exec unshare --mount --ipc --uts --cgroup --propagation slave bash -ec "
      mount -t tmpfs none \"\$3\"
      [[ -z \"$HIDDEN\" ]] || mount -t tmpfs none \"$HIDDEN\"
      exec \"\$1\" --config \"\$2\"" pod "$@"' pod "$node_bin/sluiced" "$config" "$work/mnt" "${cgroups_of_pods[@]}" \
    >>"$node_log" 2>&1 &
  node_pid=$!
  disown
}
export HIDDEN=
node_bin=$SLUICE_BIN

# end_pod: all at once, as a pod ends that has not ended in time.
end_pod() {
  local pid
  echo 1 >"${cgroups_of_pods[0]}/cgroup.kill"
  for folder in "${cgroups_of_pods[@]:1}"; do
    while read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done <"$folder/cgroup.procs"
  done
  wait_until gone "$node_pid" || fail "the pod does not end"
  rmdir "${cgroups_of_pods[@]}" || fail "a process is left in the pod's cgroups"
  cgroups_of_pods=()
}

keeper_is_on_host() {
  [[ $(readlink "/proc/$1/ns/mnt") == "$host_mounts" ]] || fail "$2: the keeper has other mounts"
  [[ $(readlink "/proc/$1/ns/cgroup") == "$host_cgroups" ]] || fail "$2: the keeper has other cgroups"
  ! grep sluice-pod "/proc/$1/cgroup" >&2 || fail "$2: the keeper is in the pod's cgroup"
  [[ $(readlink "/proc/$1/exe") == "$data_dir"/* ]] || fail "$2: the keeper runs from $(readlink "/proc/$1/exe")"
}

a_read_waits() { (($(metric sluice_reads_waiting) > 0)); }

# read_across_pods WHAT: a reader waits for the registry when its pod ends, and gets its bytes from the next.
read_across_pods() {
  local status=0
  make_cold app "$mount"
  kill -STOP "$registry_pid"
  python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >"$work/reader.log" 2>&1 &
  reader=$!
  wait_until a_read_waits || fail "$1: no read waits: $(cat "$work/reader.log")"
  end_pod
  sleep 0.3
  alive "$reader" || fail "$1: the reader did not wait for the next pod: $(cat "$work/reader.log")"
  kill -CONT "$registry_pid"
  restart_node
  wait "$reader" || status=$?
  ((status == 0)) || fail "$1: the reader got $(tail -n 3 "$work/reader.log")"
}

mkdir "$work/tree" "$cgroups"
mount -t cgroup2 none "$cgroups"
# As mounts that a pod is to see: what the host unmounts is not kept by the pods' namespaces.
mount --bind "$work/mnt" "$work/mnt"
mount --make-shared "$work/mnt"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 12000000 --files 40
start_registry
write_config
sed -i 's|^ondemand:|&\n  keeperOnHost: true|' "$config"

note "what would not outlive the pod is refused"
# shellcheck disable=SC2016
expect_failure 1 'hostPID' unshare --pid --fork --mount-proc "$SLUICE_BIN/sluiced" --config "$config"
mkdir -p "$data_dir"
HIDDEN=$data_dir
launch_node
wait_until gone "$node_pid" || fail "a daemon whose dataDir is not the host's does not end"
grep -q "$data_dir is not the host's folder" "$node_log" || fail "it does not say why"
[[ -z $(keeper_pid) ]] || fail "a keeper was started"
HIDDEN=
end_pod

restart_node
push_tree "$work/tree" app
mount=$work/mnt/app
mount_image app "$mount"
mountpoint -q "$mount" || fail "the host does not see the mount"
keeper=$(keeper_pid)
keeper_is_on_host "$keeper" "at first"

note "readers wait for the next pod"
read_across_pods "first pod"
[[ $(keeper_pid) == "$keeper" ]] || fail "there is another keeper"
sluice status --output json | jq -e --arg dir "$mount" 'any(.mounts[]; .mount_point == $dir)' >/dev/null ||
  fail "the next pod's daemon does not know the mount"

note "a keeper that dies has a successor on the host"
kill -KILL "$keeper"
another_keeper() { [[ -n $(keeper_pid) && $(keeper_pid) != "$keeper" ]]; }
wait_until another_keeper || fail "no other keeper comes"
keeper=$(keeper_pid)
python3 "$e2e_dir/compare_reads.py" "$work/tree" "$mount" >&2 || fail "reads go wrong after the keeper's death"
keeper_is_on_host "$keeper" "the successor"
read_across_pods "second pod"
[[ $(keeper_pid) == "$keeper" ]] || fail "the next pod has another keeper"

note "the next pod is of a version that speaks to its keeper otherwise, and the one after it is not"
for node_bin in "${OTHER_BIN:?the other version is needed}" "$SLUICE_BIN"; do
  read_across_pods "the pod before $node_bin"
  [[ $(keeper_pid) == "$keeper" ]] || fail "the keeper is not the process that it was"
  keeper_is_on_host "$keeper" "that of $node_bin"
  cmp "/proc/$keeper/exe" "$node_bin/../libexec/sluice-keeper" || fail "the keeper is not the one of $node_bin"
  [[ $(readlink "/proc/$keeper/exe") != *deleted* ]] || fail "the keeper's program is gone"
done

note "nothing is left when nothing is mounted"
sluice umount "$mount" >&2
if mountpoint -q "$mount"; then fail "the host still has the mount"; fi
end_process "$node_pid" TERM
wait_until gone "$keeper" || fail "the keeper stays though nothing is mounted"
end_pod
[[ ! -e $cgroups/sluice-keeper ]] || fail "the keeper's cgroup is left"
