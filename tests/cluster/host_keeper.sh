# shellcheck shell=bash
# The steps of tests/cluster/run.sh, which sources this, with a keeper that outlives its pod, on the host's network, and
# with the node's container runtime asking the pod's mirror.

# shellcheck disable=SC2154  # set by run.sh, cluster.sh and tests/e2e/lib.sh
host_operations_port=$(free_port) peers_port=$(free_port) mirror_port=$(free_port)
readonly upgrade_seconds=180
host_values=(
  --set hostNetwork=true
  --set "config.ondemand.readDeadline=${upgrade_seconds}s"
  --set "config.operations.listen=0.0.0.0:$host_operations_port,config.cluster.listen=0.0.0.0:$peers_port"
  --set "mirror.enabled=true,mirror.port=$mirror_port"
  --set "mirror.containerd.configure=true,mirror.containerd.folder=$cluster/etc"
)

host_keeper() { pgrep -f "^$data_dir/bin/sluice-keeper .*$run_dir"; }

install_on_host() {
  "${install[@]}" "${values[@]}" "${host_values[@]}" "$@" >"$work/notes" || fail "helm fails: $(<"$work/notes")"
}

# --- helm test

try_helm_test() {
  wait_until name_service sluice "$namespace" || fail "the Service has no endpoints"
  timeout 300 "$K8S_HOME/bin/helm" --kubeconfig "$cluster/kubeconfig" test sluice --namespace "$namespace" --logs >&2 ||
    fail "helm test fails"
  # Helm leaves it for its log.
  in_namespace delete pod sluice-test >&2
}

# --- ordinary images

# An ordinary image of $1 bytes that no other has, which can run, as plain:1.
push_plain() {
  mkdir -p "$work/plain/bin"
  cp /bin/busybox "$work/plain/bin/busybox"
  head -c "$1" /dev/urandom >"$work/plain/noise"
  tar -C "$work/plain" -c . | gzip -1 >"$work/plain.tar.gz"
  push_ordinary plain "$work/plain.tar.gz"
}

start_plain_pod() {
  in_namespace apply -f - >&2 <<YAML
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: plain, image: "$pods_registry/plain:1", imagePullPolicy: Always, command: [/bin/busybox, sleep, "1000000"]}
YAML
}
plain_pod_runs() { [[ $(in_namespace get pod plain --output 'jsonpath={.status.containerStatuses[0].state.running}') ]]; }
run_plain_pod() {
  start_plain_pod
  wait_until plain_pod_runs || fail "the pod of an ordinary image does not run: $(in_namespace describe pod plain | tail -n 5)"
}

blobs_asked_of_registry() { grep -c '"GET /v2/plain/blobs/' "$work/pods-registry.log" || true; }

# The runtime has no other way to that registry than the mirror: by itself it would ask it by TLS.
try_mirror() {
  local before bytes=8000000
  push_plain "$bytes"
  before=$(metric sluice_origin_bytes_total)
  run_plain_pod
  (($(metric sluice_origin_bytes_total) - before >= bytes)) || fail "the image did not come through the node"
  (($(blobs_asked_of_registry) > 0)) || fail "the registry does not say what it was asked for"
}

# Its tag is asked for again, and no blob: the runtime has forgotten them, and the node has not.
try_second_pull() {
  local before asked
  in_namespace delete pod plain >&2
  ctr images rm --sync "$pods_registry/plain:1" >&2
  before=$(blobs_asked_of_registry)
  asked=$(metric sluice_mirror_requests_total)
  run_plain_pod
  (($(metric sluice_mirror_requests_total) > asked)) || fail "the second pull did not ask the node"
  (($(blobs_asked_of_registry) == before)) || fail "the second pull asked the registry for blobs"
}

# --- upgrades under readers

# Reads what is there, at random places, past the kernel's cache, until $work/enough is there; errors are not allowed.
read_on() {
  local seed=0
  while [[ ! -e $work/enough ]]; do
    seed=$((seed + 1))
    python3 "$e2e_dir/compare_reads.py" "$1" "$2" --reads 200 --seed "$seed" >"$work/busy.log" 2>&1 ||
      { tail -n 5 "$work/busy.log"; return 1; }
  done
  echo "$seed rounds"
}

# upgrade_under_readers NAME SEED [helm's arguments]: one reader has all it reads, another waits for a registry that says
# nothing before the new pod is there.
upgrade_under_readers() {
  local name=$1 pod keeper busy waiting status=0
  push_new "$name" "$2"
  pod_mounts "$name" "$mounts/$name"
  reads_right "$work/warm" "$mounts/warm" || fail "the host can't read what was mounted before"
  rm -f "$work/enough"
  read_on "$work/warm" "$mounts/warm" >"$work/read-on.log" &
  busy=$!
  kill -STOP "$pods_registry_pid"
  python3 "$e2e_dir/compare_reads.py" "$work/$name" "$mounts/$name" >"$work/reader.log" 2>&1 &
  waiting=$!
  wait_until a_read_waits || fail "no read waits: $(cat "$work/reader.log")"
  pod=$(pod_name)
  keeper=$(host_keeper)
  install_on_host "${@:3}"
  await_other_pod "$pod"
  alive "$waiting" || fail "the reader did not wait for the next pod: $(cat "$work/reader.log")"
  kill -CONT "$pods_registry_pid"
  wait "$waiting" || fail "a reader that waited during the upgrade got $(tail -n 3 "$work/reader.log")"
  : >"$work/enough"
  wait "$busy" || status=$?
  ((status == 0)) || fail "a reader of what is there got $(cat "$work/read-on.log")"
  [[ $(host_keeper) == "$keeper" ]] || fail "the upgrade replaced the keeper $keeper: $(host_keeper)"
  cmp "/proc/$keeper/exe" <(in_pod cat /usr/libexec/sluice-keeper) || fail "the keeper is not the one of the next pod"
  note "through the upgrade: $(tail -n 1 "$work/reader.log"); $(cat "$work/read-on.log")"
  in_pod sluice status --output json | jq -e --arg dir "$mounts/$name" 'any(.mounts[]; .mount_point == $dir)' >"$work/answer" ||
    fail "the next pod's daemon does not know the mount"
}

# --- uninstall

# start_user NAME: a pod that has a file of the image mounted as NAME open; sets file, its path in the image.
start_user() {
  file=$(cd "$work/$1" && find . -type f -size +64k | sort | head -n 1)
  file=${file#./}
  in_namespace apply -f - >&2 <<YAML
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: reads
      image: "$pods_registry/plain:1"
      command: [/bin/busybox, sh, -c, 'exec /bin/busybox sleep 1000000 <"\$0"', "/images/$1/$file"]
      volumeMounts: [{name: images, mountPath: /images, mountPropagation: HostToContainer}]
  volumes:
    - {name: images, hostPath: {path: "$mounts"}}
YAML
  wait_until user_runs || fail "the pod that uses an image does not run: $(in_namespace describe pod user | tail -n 5)"
}
user_runs() { [[ $(in_namespace get pod user --output 'jsonpath={.status.containerStatuses[0].state.running}') ]]; }
end_user() {
  in_namespace delete pod user >&2
  wait_until no_such_pod user || fail "the pod that uses an image stays"
}

# With an image in use: nothing is taken away, and it is said by which pod, and which file that is.
try_refused_uninstall() {
  local pod keeper before
  pod=$(pod_name)
  keeper=$(host_keeper)
  before=$(mounts_below "$mounts")
  start_user warm
  if helm uninstall sluice --namespace "$namespace" >"$work/uninstall.log" 2>&1; then
    fail "a pod uses an image, and helm uninstall does it"
  fi
  in_namespace logs sluice-uninstall >"$work/refusal" 2>&1
  cat "$work/refusal" >&2
  grep -qF "node localhost: " "$work/refusal" || fail "it does not say on which node"
  grep -q "^$mounts/warm  $pods_registry/warm:1\$" <(sed 's/^node localhost: //' "$work/refusal") || fail "it does not name the mount"
  grep -q "pid [0-9]* (busybox) of pod $namespace/user, container reads, uses /images/warm/$file\$" "$work/refusal" ||
    fail "it does not name the pod, and the file"
  grep -q 'FAILED: on 1 of 1 nodes images are in use.*--set uninstall.force=true' "$work/refusal" || fail "it does not say what to do"
  [[ $(pod_name) == "$pod" && $(host_keeper) == "$keeper" && $(mounts_below "$mounts") == "$before" ]] || fail "what was refused was done"
  reads_right "$work/warm" "$mounts/warm" || fail "reads go wrong after a refused uninstall"
  wait_until only_the_log_is_left || fail "left by what was refused: $(in_namespace get daemonset,pod --output name)"
  end_user
}

only_the_log_is_left() {
  [[ $(in_namespace get daemonset,pod --output name | grep uninstall) == pod/sluice-uninstall ]]
}

# forced_uninstall NAME: while a pod has a file of that image open, and a reader on the host waits for a registry that says
# nothing: both get errors, and nothing is left but what the pod has open.
forced_uninstall() {
  local reader status=0
  install_on_host --set uninstall.force=true
  grep -q 'WARNING: uninstall.force is set' "$work/notes" || fail "the notes don't say what an uninstall does"
  start_user "$1"
  push_new cold 9
  pod_mounts cold "$mounts/cold"
  kill -STOP "$pods_registry_pid"
  python3 "$e2e_dir/compare_reads.py" "$work/cold" "$mounts/cold" >"$work/reader.log" 2>&1 &
  reader=$!
  wait_until a_read_waits || fail "no read waits: $(cat "$work/reader.log")"
  uninstall
  wait "$reader" || status=$?
  kill -CONT "$pods_registry_pid"
  ((status != 0)) && grep -q 'Input/output error' "$work/reader.log" || fail "the reader that waited got $(cat "$work/reader.log")"
  user_runs || fail "the pod that uses the image was ended"
  drop_page_cache
  if in_namespace exec user -- /bin/busybox cat /proc/1/fd/0 >"$work/answer" 2>"$work/error"; then
    fail "the pod reads on what was taken away by force"
  fi
  grep -q 'Input/output error\|I/O error' "$work/error" || fail "the pod's read fails for another reason: $(cat "$work/error")"
  end_user
}

# --- reboot

end_keepers() {
  local pid
  for pid in $(host_keeper); do kill -KILL "$pid" || true; done
  no_node_processes
}

# end_node: all processes of the node end at once, its mounts go, and so do its images and what lies in /run. The control
# plane is elsewhere.
end_node() {
  local pid point
  network_namespaces >"$cluster/namespaces" 2>/dev/null
  kill -KILL "$kubelet_pid" "$containerd_pid"
  end_shims
  for pid in $(cat /sys/fs/cgroup/pids/k8s.io/*/cgroup.procs /sys/fs/cgroup/k8s.io/*/cgroup.procs 2>/dev/null); do
    kill -KILL "$pid" 2>/dev/null || true
  done
  # Last, as a daemon that lives gives a keeper that is dead a successor.
  wait_until end_keepers || fail "processes of the node live on: $(node_processes)"
  for folder in "$mounts" "$cluster/kubelet" "$cluster/containerd-run" "$cluster/containerd"; do
    # A mount below another one of the same name is listed too, and goes with it.
    mounts_below "$folder" | while read -r point; do [[ $point == "$mounts" ]] || umount -l "$point" || true; done
  done
  while read -r point; do umount -l "$point" && rm -f "$point" || true; done <"$cluster/namespaces"
  rm -rf "$cluster/containerd" "$cluster/containerd-run" "${run_dir:?}"/*
}

containers_of_plain() { in_namespace get pod plain --output 'jsonpath={.status.containerStatuses[0].containerID}'; }
plain_runs_anew() { plain_pod_runs && [[ $(containers_of_plain) != "$1" ]]; }

# Every pod comes back by itself, though all images are to be had again: those of the node without the node, which the
# runtime is told to ask first, and the ordinary one through it.
try_reboot() {
  local before started=$SECONDS
  run_plain_pod
  before=$(containers_of_plain)
  end_node
  start_containerd
  start_kubelet
  until daemonset_is_ready && plain_runs_anew "$before"; do
    ((SECONDS - started < 400)) || fail "not every pod comes back: $(in_namespace get pods)"
    sleep 1
  done
  note "every pod was back after $((SECONDS - started)) s"
  await_pod
  [[ $(metric sluice_mounts) == 0 ]] || fail "the node believes in mounts of before: $(in_pod sluice status)"
  push_new after 8
  pod_mounts after "$mounts/after"
  reads_right "$work/after" "$mounts/after" || fail "the host can't read what was mounted after the reboot"
}
