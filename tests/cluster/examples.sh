# shellcheck shell=bash
# The clients of api/examples against this Kubernetes. Sourced by run.sh, whose variables and functions these are; needs a
# node that is the container runtime's mirror.

# shellcheck disable=SC2154  # set by run.sh, cluster.sh and tests/e2e/lib.sh
examples_pids=()

# run_example NAME COMMAND...: in a process group of its own, with Debian's Python, which sees Debian's gRPC.
run_example() {
  TMPDIR=$work PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 setsid "${@:2}" >"$work/$1.log" 2>&1 8>&- &
  examples_pids+=($!)
  disown
}

end_examples() {
  local pid
  for pid in "${examples_pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
  examples_pids=()
}

# As the client's help says it.
start_hint_client() {
  # shellcheck disable=SC2016  # it is for the shell that is started
  run_example hint-client bash -c '
    watch() {
      while echo; do
        "$K8S_HOME/bin/kubectl" --kubeconfig "$1/kubeconfig" get "$2" -A --watch --output-watch-events --output json
        sleep 1
      done
    }
    exec /usr/bin/python3 api/examples/hint_client.py --socket "$0" --pods localhost --from <(watch "$1" pods) --from <(watch "$1" deployments)' \
    "$run_dir/prefetch.sock" "$cluster"
}

start_extender() {
  run_example extender /usr/bin/python3 api/examples/scheduler_extender.py --socket "$run_dir/prefetch.sock" \
    --listen "$extender_address" --verbose
  wait_until grep -q '^listening' "$work/extender.log" || fail "the extender does not start: $(<"$work/extender.log")"
}

# push_both NAME: an image of bytes that no other has, which a runtime can run and the node can mount, as NAME:1; its tree is
# $work/NAME.
push_both() {
  mkdir -p "$work/$1/bin"
  cp /bin/busybox "$work/$1/bin/busybox"
  head -c 8000000 /dev/urandom >"$work/$1/noise"
  tar -C "$work/$1" -c . | gzip -1 >"$work/$1.tar.gz"
  push_ordinary "$1-source" "$work/$1.tar.gz"
  sluice image push --with-source "$registry/$1-source:1" "$registry/$1:1" >&2
}

# deploy_web NAME PAUSED: a Deployment that runs that image, or, paused, says that it will.
deploy_web() {
  in_namespace apply -f - >&2 <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  paused: $2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: "$pods_registry/$1:1", command: [/bin/busybox, sleep, "1000000"]}]
YAML
}
web_runs() { [[ $(in_namespace get deployment web --output 'jsonpath={.status.readyReplicas}') == 1 ]]; }

# web_hints NAME: the states of the hints at that image.
web_hints() {
  sluice --output json prefetch list |
    jq -r --arg image "$pods_registry/$1:1" '[.hints[] | select(.reference == $image) | .state] | sort | join(" ")'
}
web_hinted() { [[ $(web_hints "$1") == "$2" ]]; }
web_is_tried() { [[ $(web_hints "$1") =~ ^(queued|resolving)$ ]]; }
fail_hints() { fail "$1: $(sluice prefetch list; tail -n 20 "$work/hint-client.log")"; }

# A paused Deployment makes no pods of a new template: what comes for it comes by the change alone.
try_hint_client() {
  local before
  push_both web-1
  push_both web-2
  start_hint_client
  deploy_web web-1 false
  wait_until web_runs || fail "the Deployment does not run: $(in_namespace describe pod --selector app=web | tail -n 5)"
  deploy_web web-2 true
  wait_until web_hinted web-2 completed || fail_hints "the new image is not hinted at"
  [[ $(in_namespace get pods --selector app=web --output 'jsonpath={.items[*].spec.containers[*].image}') == "$pods_registry/web-1:1" ]] ||
    fail "there is a pod of the new image already"
  before=$(metric sluice_origin_blob_bytes_total)
  pod_mounts web-2 "$mounts/web-2"
  reads_right "$work/web-2" "$mounts/web-2" || fail "the host can't read what was hinted at"
  (($(metric sluice_origin_blob_bytes_total) == before)) || fail "the hint has not brought all in"
  in_pod sluice umount "$mounts/web-2" >&2
  note "$(sluice prefetch list | grep web-2)"
}

# A deleted Deployment needs its next image no more.
try_cancelled_hint() {
  kill -STOP "$pods_registry_pid"
  deploy_web web-3 true
  wait_until web_is_tried web-3 || fail_hints "the third image is not hinted at"
  in_namespace delete deployment web >&2
  wait_until web_hinted web-3 cancelled || fail_hints "the hint stays when its Deployment is deleted"
  kill -CONT "$pods_registry_pid"
}

# A node without a kubelet, and without the labels by which DaemonSets would find it.
add_empty_node() {
  kubectl create -f - >&2 <<'YAML'
apiVersion: v1
kind: Node
metadata: {name: empty}
status:
  capacity: {cpu: "64", memory: 256Gi, pods: "100"}
  allocatable: {cpu: "64", memory: 256Gi, pods: "100"}
  conditions: [{type: Ready, status: "True", reason: Test, message: of the test}]
YAML
  sleep 1  # time in which the scheduler hears of it
}

# start_where_it_likes NAME IMAGE: a pod that any node would do for, ready or not.
start_where_it_likes() {
  in_namespace apply -f - >&2 <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers: [{name: pod, image: "$pods_registry/$2:1", command: [/bin/busybox, sleep, "1000000"]}]
YAML
}
node_of() { in_namespace get pod "$1" --output 'jsonpath={.spec.nodeName}'; }
is_scheduled() { [[ -n $(node_of "$1") ]]; }
await_scheduled() { wait_until is_scheduled "$1" || fail "it is not scheduled: $(in_namespace describe pod "$1" | tail -n 5)"; }
runs() { [[ $(in_namespace get pod "$1" --output 'jsonpath={.status.phase}') == Running ]]; }

# By itself the scheduler takes the node that has nothing to do.
try_extender() {
  start_extender
  add_empty_node
  start_where_it_likes anywhere nowhere
  await_scheduled anywhere
  start_where_it_likes chosen web-2
  await_scheduled chosen
  cat "$work/extender.log" >&2
  [[ $(node_of anywhere) == empty ]] || fail "without an image anywhere the scheduler takes $(node_of anywhere)"
  [[ $(node_of chosen) == localhost ]] || fail "the scheduler does not take the node that has the image"
  grep -Eq "^filter $namespace/chosen leaves (empty, localhost|localhost, empty)\$" "$work/extender.log" &&
    grep -Eq "^prioritize $namespace/chosen scores (empty 0, localhost 10|localhost 10, empty 0)\$" "$work/extender.log" ||
    fail "the scheduler does not ask the extender"
  wait_until runs chosen || fail "the pod does not run: $(in_namespace describe pod chosen | tail -n 5)"
  in_namespace delete pod chosen >&2
  in_namespace delete pod anywhere --force --grace-period 0 >&2
  kubectl delete node empty >&2
}
