#!/usr/bin/env bash
# The chart on a real Kubernetes: see usage.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'USAGE'
usage: [K8S_HOME=FOLDER] [PREBUILT=FOLDER] bash tests/cluster/run.sh [helm's arguments]

Builds the node's image, starts a Kubernetes of one node on loopback, installs charts/sluice into it and tries what the
chart promises. Needs root and a Debian 12; installs packages that are missing. K8S_HOME/bin must hold Kubernetes 1.20 or
newer and helm (default: ~/.cache/k8s-1.20; built by ../shared/tools/k8s/build, if that is there).
With PREBUILT, a build folder of this checkout, the image is made of its programs: see tests/cluster/image.sh.
What is given is passed on to helm install, e.g. --set peers.enabled=false.

The last line of standard output is JSON: true or false for each step. All else goes to standard error.
USAGE
}

case ${1-} in -h | --help) usage; exit 0 ;; esac
((EUID == 0)) || { echo "tests/cluster/run.sh: run it as root" >&2; exit 2; }
helm_arguments=("$@")

source tests/packages.sh
install_packages "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_RUN_PACKAGES[@]}" "${SLUICE_TEST_PACKAGES[@]}" \
  "${SLUICE_CLUSTER_PACKAGES[@]}"

export K8S_HOME=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/k8s-1.20}
if [[ ! -x $K8S_HOME/bin/kubelet && -x ../shared/tools/k8s/build ]]; then
  echo "-- building Kubernetes, once" >&2
  ../shared/tools/k8s/build >&2
fi
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl helm; do
  [[ -x $K8S_HOME/bin/$program ]] && continue
  echo "tests/cluster/run.sh: there is no $K8S_HOME/bin/$program; set K8S_HOME to a folder whose bin/ has Kubernetes" >&2
  exit 2
done

# The tool pushes images and speaks to the node from the host.
cmake --preset release >&2
cmake --build --preset release --target sluice >&2

# A signal may come while a function's output goes elsewhere, and the trap's would go there too.
exec 8>&1
# Pulling the image on a slow machine takes a while.
export WAIT_SECONDS_MAX=${WAIT_SECONDS_MAX:-120}
source tests/e2e/lib.sh
source tests/cluster/cluster.sh
source tests/e2e/lib_images.sh
source tests/cluster/host_keeper.sh
source tests/cluster/examples.sh
source tests/cluster/dry_run.sh

readonly steps=(image_built cluster_up dry_run bad_values_refused install ready mounted_and_read host_tool service_names_pod
  metrics_scraped second_node_asks_first upgrade_keeps_pod deleted_under_waiting_reader unused_unmounted remounted_and_read
  deleted_under_busy_readers helm_test pull_by_mirror second_pull_origin_zero
  hinted_before_any_pod hint_cancelled scheduled_by_extender upgrade_pod upgrade_version
  uninstall_refused uninstall reboot uninstall_forced)
declare -A done_steps=()
namespace=storage
# A read that no one answers any more must end within its deadline and the pod's time to end.
readonly read_deadline_seconds=20 pod_end_seconds=30
operations_port=9464
mounts=$work/mnt
other_mounts=$work/other-mnt
pods_registry_pid=
prometheus_pid=
gateway_added=no

passed() {
  done_steps[$1]=true
  note "passed: $1"
}

report() {
  local name separator=
  printf '{'
  for name in "${steps[@]}"; do
    printf '%s"%s":%s' "$separator" "$name" "${done_steps[$name]:-false}"
    separator=,
  done
  printf '}\n'
}

end_all() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  set +e
  if ((status)) && api_is_ready; then
    in_namespace get all,events >&2
    in_namespace logs --selector app.kubernetes.io/name=sluice --tail 40 >&2
  fi
  end_process "$prometheus_pid" KILL
  [[ -z $pods_registry_pid ]] || kill -CONT "$pods_registry_pid"
  end_examples
  cluster_down
  end_process "$pods_registry_pid" KILL
  [[ $gateway_added == no ]] || ip address delete "$pod_gateway/32" dev lo
  (cleanup "$status")
  status=$?
  report >&8
  exit "$status"
}
trap end_all EXIT

# --- the pod

in_namespace() { kubectl --namespace "$namespace" "$@"; }
pod_name() { in_namespace get pod --selector app.kubernetes.io/name=sluice --output 'jsonpath={.items[0].metadata.name}'; }
pod_field() { in_namespace get pod "$(pod_name)" --output "jsonpath={$1}"; }
in_pod() { in_namespace exec daemonset/sluice -- "$@"; }
daemonset_is_ready() {
  [[ $(in_namespace get daemonset sluice --output 'jsonpath={.status.desiredNumberScheduled} {.status.numberReady}') == '1 1' ]]
}
no_such_pod() { ! in_namespace get pod "$1" >/dev/null 2>&1; }

await_pod() {
  wait_until daemonset_is_ready || fail "the DaemonSet does not become ready: $(in_namespace describe pod | tail -n 15)"
  listen=$(pod_field .status.podIP):$operations_port
}

# await_other_pod NAME: until that one has gone, and its successor is ready.
await_other_pod() {
  wait_until no_such_pod "$1" || fail "the pod $1 does not end"
  await_pod
}

# --- what it serves

start_pods_registry() {
  pods_registry=$pod_gateway:$(free_port)
  # It says what is asked for.
  sed "s|addr: .*|addr: \"$pods_registry\"}|; s|disabled: true|disabled: false|" "$work/registry.yml" >"$work/pods-registry.yml"
  OTEL_TRACES_EXPORTER=none setsid docker-registry serve "$work/pods-registry.yml" >"$work/pods-registry.log" 2>&1 &
  pods_registry_pid=$!
  disown
  wait_until curl -fs -o "$work/answer" "http://$pods_registry/v2/" || fail "the pods' registry does not start"
}

# pod_mounts NAME DIR: through the pod, where the host sees it.
pod_mounts() {
  in_pod mkdir -p "$2"
  in_pod sluice mount "$pods_registry/$1:1" "$2" >&2
  wait_until mountpoint -q "$2" || fail "the host does not see what the pod mounts at $2"
}

# push_new NAME SEED: an image of bytes that no other has, so that it is cold in every store; its tree is $work/NAME.
push_new() {
  mkdir "$work/$1"
  python3 "$e2e_dir/make_tree.py" "$work/$1" --bytes 24000000 --files 100 --seed "$2"
  push_tree "$work/$1" "$1"
}

# read_in_background NAME [compare_reads.py's arguments]: sets reader, whose words go to $work/reader.log.
read_in_background() {
  python3 "$e2e_dir/compare_reads.py" "$work/$1" "$mounts/$1" "${@:2}" --errors allowed >"$work/reader.log" 2>&1 &
  reader=$!
}

# reader_ends_well: within the bound, with right bytes or errors.
reader_ends_well() {
  local status=0 started=$SECONDS
  until gone "$reader"; do
    ((SECONDS - started < read_deadline_seconds + pod_end_seconds)) || fail "a reader hangs: $(cat "/proc/$reader/stack")"
    sleep 0.1
  done
  wait "$reader" || status=$?
  ((status == 0)) || fail "a reader got wrong bytes: $(tail -n 5 "$work/reader.log")"
  note "the reader: $(tail -n 1 "$work/reader.log")"
}

a_read_waits() { (($(metric sluice_reads_waiting) > 0)); }
is_mounted() { mountpoint -q "$1"; }
is_not_mounted() { ! mountpoint -q "$1"; }

node_processes() { pgrep -f "^(/usr/bin/sluiced --config /etc/sluice|[^ ]*sluice-keeper .*$work)"; }

# --- the steps

note "building the image"
start_registry
bash tests/cluster/image.sh "$registry" || fail "the image can't be built"
passed image_built

note "starting Kubernetes"
# Bidirectional mounts need a shared mount below them; not every machine's root is one.
mkdir "$other_mounts"
for folder in "$mounts" "$other_mounts"; do
  mount --bind "$folder" "$folder"
  mount --make-shared "$folder"
done
if ! ip -4 address show | grep -q "inet $pod_gateway/"; then
  ip address add "$pod_gateway/32" dev lo
  gateway_added=yes
fi
start_pods_registry
cluster_up "$registry"
passed cluster_up

note "the API server takes what the chart makes for values of every kind"
dry_run
passed dry_run

values=(
  --set image.repository=sluice/sluice --set image.tag=test
  --set "config.dataDir=$data_dir,config.runtimeDir=$run_dir,mountsDir=$mounts"
  --set "config.images.allow={$pods_registry/*},config.origin.plainHttp={$pods_registry}"
  --set "config.ondemand.readDeadline=${read_deadline_seconds}s"
  --set "terminationGracePeriodSeconds=$pod_end_seconds"
  "${helm_arguments[@]}"
)
readonly install=(helm upgrade --install sluice charts/sluice --namespace "$namespace" --create-namespace)
install_in_pod=("${install[@]}" "${values[@]}" --set config.ondemand.keeperOnHost=false)

expect_failure 1 'config.ondemand.backend: "fanotify" .*zeros' "${install_in_pod[@]}" --set config.ondemand.backend=fanotify
expect_failure 1 'relpicas is not allowed' "${install_in_pod[@]}" --set relpicas=3
[[ -z $(helm list --all-namespaces --all --short) ]] || fail "a refused release was made"
passed bad_values_refused

"${install_in_pod[@]}" >"$work/notes" || fail "helm install fails"
cat "$work/notes" >&2
grep -q 'sluice doctor' "$work/notes" || fail "the notes don't say how to see it work"
passed install

await_pod
passed ready

note "a mount through the pod, read by the host"
push_new app 1
pod_mounts app "$mounts/app"
reads_right "$work/app" "$mounts/app" --reads 200 || fail "the host can't read what the pod mounted"
[[ $(checksum_of "$mounts/app") == $(checksum_of "$work/app") ]] || fail "the host reads another tree than was pushed"
in_pod sluice doctor --data-dir "$data_dir" | grep -q '^fuse' || fail "sluice doctor does not run in the pod"
passed mounted_and_read

sluice status --output json | jq -e --arg dir "$mounts/app" '.backend == "fuse" and any(.mounts[]; .mount_point == $dir)' \
  >"$work/answer" || fail "the host's sluice does not see the pod's node"
passed host_tool

note "the headless Service names the pod, and where it listens for peers"
address=$(pod_field .status.podIP)
[[ $(in_namespace get service sluice --output 'jsonpath={.spec.clusterIP}') == None &&
   $(in_namespace get endpoints sluice --output 'jsonpath={.subsets[*].addresses[*].ip}') == "$address" ]] ||
  fail "the Service does not name the pod: $(in_namespace get endpoints sluice)"
# Nothing but operations, if peers are switched off.
for port in $(in_namespace get endpoints sluice --output 'jsonpath={.subsets[*].ports[*].port}'); do
  (exec 3<>"/dev/tcp/$address/$port") || fail "nothing listens on port $port of the pod"
done
passed service_names_pod

note "Prometheus scrapes the pod"
(($(metric sluice_read_bytes_total) > 0)) || fail "the metrics don't count what was read"
prometheus=127.0.0.1:$(free_port)
echo "{global: {scrape_interval: 1s}, scrape_configs: [{job_name: sluice, static_configs: [{targets: [\"$listen\"]}]}]}" \
  >"$work/prometheus.yml"
setsid prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" \
  --web.listen-address="$prometheus" >"$work/prometheus.log" 2>&1 &
prometheus_pid=$!
disown
wait_until curl -fs -o "$work/answer" "http://$prometheus/-/ready" || fail "prometheus does not start"
is_scraped() {
  curl -fsS --get --data-urlencode 'query=count_over_time(sluice_build_info[1m]) >= 2' "http://$prometheus/api/v1/query" |
    jq -e '.data.result | length == 1' >"$work/answer"
}
wait_until is_scraped || fail "prometheus does not scrape the pod"
# A rate is of what happens while it looks.
push_new scraped 77
pod_mounts scraped "$mounts/scraped"
reads_right "$work/scraped" "$mounts/scraped" --reads 200 || fail "the host can't read what the pod mounted"
in_pod sluice umount "$mounts/scraped" >&2
python3 -B tests/chart/dashboards.py charts/sluice queries "http://$prometheus" 1 >&2 || fail "a panel shows nothing"
end_process "$prometheus_pid" KILL
prometheus_pid=
passed metrics_scraped

# A second release stands for a second node, with folders of its own; there is no DNS here, so it is told its member.
second_node_asks_first() {
  local first=$address:7301 namespace=second listen received pod
  "${install_in_pod[@]}" --namespace second --set "config.dataDir=$work/other-data,config.runtimeDir=$work/other-run" \
    --set "mountsDir=$other_mounts,config.cluster.members={$first}" >"$work/notes" || fail "a second release fails"
  await_pod
  pod_mounts app "$other_mounts/app"
  reads_right "$work/app" "$other_mounts/app" || fail "the host can't read what the second node mounted"
  received=$(metric sluice_peer_received_bytes_total)
  note "the second node got $received bytes from the first, and $(metric sluice_origin_bytes_total) from the registry"
  ((received > 0)) || fail "the second node asks the registry for what the first one has"
  pod=$(pod_name)
  helm uninstall sluice --namespace second >&2
  wait_until no_such_pod "$pod" || fail "the second node's pod stays"
}

# What switches the peers off leaves out what needs them.
peers_are_on() { in_namespace get endpoints sluice --output 'jsonpath={.subsets[*].ports[*].name}' | grep -qw peers; }
if peers_are_on; then
  note "a second node gets from the first what that has"
  second_node_asks_first
  passed second_node_asks_first
fi

note "an upgrade leaves the pod and its mounts alone"
uid=$(pod_field .metadata.uid)
"${install_in_pod[@]}" --set config.log.level=debug >"$work/notes" || fail "helm upgrade fails"
in_namespace get configmap sluice --output yaml | grep -q 'level: "debug"' || fail "the upgrade has no effect"
sleep 3  # time in which a controller would replace the pod
[[ $(pod_field .metadata.uid) == "$uid" && -z $(pod_field .metadata.deletionTimestamp) ]] || fail "an upgrade ends the pod"
passed upgrade_keeps_pod

note "the pod is deleted while a reader waits for a registry that says nothing"
push_new waiting 2
push_new idle 3
pod_mounts waiting "$mounts/waiting"
pod_mounts idle "$mounts/idle dir"
kill -STOP "$pods_registry_pid"
read_in_background waiting
wait_until a_read_waits || fail "no read waits: $(cat "$work/reader.log")"
pod=$(pod_name)
in_namespace delete pod "$pod" --wait=false >&2
reader_ends_well
kill -CONT "$pods_registry_pid"
await_other_pod "$pod"
passed deleted_under_waiting_reader

in_namespace logs "$(pod_name)" >"$work/pod.log"
for idle in "$mounts/idle dir" "$mounts/app"; do
  is_not_mounted "$idle" || fail "nobody used $idle, and it is still mounted"
  ! grep "$idle" "$work/pod.log" >&2 || fail "nobody used $idle, and the next pod found it"
done
passed unused_unmounted

note "the next pod takes down what was in use, and mounts it anew"
wait_until is_not_mounted "$mounts/waiting" || fail "a dead mount stays"
grep -q 'ALARM.*mnt/waiting' "$work/pod.log" || fail "the next pod does not say that it took a mount down"
in_pod cat /etc/sluice/sluice.yaml >"$work/answer"
grep -q 'level: "debug"' "$work/answer" || fail "the next pod has the old configuration"
pod_mounts waiting "$mounts/waiting"
reads_right "$work/waiting" "$mounts/waiting" || fail "the host can't read what the next pod mounted"
passed remounted_and_read

note "the pod is deleted under readers that are busy"
push_new busy 4
pod_mounts busy "$mounts/busy"
read_in_background busy --reads 20000
sleep 0.5  # amid its reads
pod=$(pod_name)
in_namespace delete pod "$pod" --wait=false >&2
reader_ends_well
await_other_pod "$pod"
pod_mounts busy "$mounts/busy"
drop_page_cache
reads_right "$work/busy" "$mounts/busy" || fail "the host can't read what the third pod mounted"
passed deleted_under_busy_readers

# uninstall: leaves nothing on the host but the store.
uninstall() {
  local pod
  pod=$(pod_name)
  helm uninstall sluice --namespace "$namespace" >&2
  wait_until no_such_pod "$pod" || fail "the pod stays"
  wait_until nothing_is_left || fail "left: $(in_namespace get "$kinds" --output name)"
  [[ -z $(mounts_below "$mounts" | grep -vx "$mounts") ]] || fail "an image is still mounted: $(mounts_below "$mounts")"
  wait_until no_node_processes || fail "processes of the node live on: $(node_processes)"
}
readonly kinds=all,configmap,serviceaccount,secret,role,rolebinding
nothing_is_left() { [[ -z $(in_namespace get "$kinds" --selector app.kubernetes.io/instance=sluice --output name) ]]; }
no_node_processes() { [[ -z $(node_processes) ]]; }

note "helm uninstall while the keeper is in the pod"
uninstall

note "a keeper that outlives its pod"
operations_port=$host_operations_port
install_on_host
await_pod
push_new warm 5
pod_mounts warm "$mounts/warm"
[[ -n $(host_keeper) ]] || fail "no keeper runs on the host"

note "helm test"
try_helm_test
passed helm_test
note "an ordinary image comes through the node"
try_mirror
passed pull_by_mirror
try_second_pull
passed second_pull_origin_zero
in_namespace delete pod plain >&2

note "a Deployment's new image comes before any pod of it"
try_hint_client
passed hinted_before_any_pod
try_cancelled_hint
passed hint_cancelled
if peers_are_on; then
  note "the scheduler asks the extender, and takes the node that has the image"
  try_extender
  passed scheduled_by_extender
fi
end_examples

note "an upgrade that ends the pod, under readers"
upgrade_under_readers again 6 --set podAnnotations.again=yes
passed upgrade_pod
note "an upgrade to another version, under readers"
upgrade_under_readers next 7 --set image.tag=next
passed upgrade_version
note "helm uninstall while a pod uses an image"
try_refused_uninstall
passed uninstall_refused
note "helm uninstall unmounts what nobody uses, and leaves nothing"
uninstall
passed uninstall

note "the node is started again"
install_on_host
await_pod
try_reboot
passed reboot
note "helm uninstall by force"
in_namespace delete pod plain >&2
forced_uninstall after
passed uninstall_forced
