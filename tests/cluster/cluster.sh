# shellcheck shell=bash
# A Kubernetes of one node on loopback, in the work directory of tests/e2e/lib.sh, which must have been sourced. What it
# changes of the machine (addresses, kernel settings, network namespaces) it puts back.
# Reads K8S_HOME: its bin/ holds kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl and helm.

# shellcheck disable=SC2154  # set by tests/e2e/lib.sh
cluster=$work/cluster
containerd_socket=$cluster/containerd.sock
# Pods reach the host at the gateway's address, which nothing else does, and at its own.
readonly pod_gateway=10.88.0.1
# Where pods ask Kubernetes: nothing here leads them from a Service's address to where the server is otherwise.
readonly api_address=10.96.0.1
# Where the scheduler asks an extender, and goes on without if nobody answers.
extender_address=127.0.0.1:$(free_port)
api_address_added=no
cluster_pids=()
containerd_pid=
kubelet_pid=
saved_settings=()
new_folders=()

kubectl() { "$K8S_HOME/bin/kubectl" --kubeconfig "$cluster/kubeconfig" "$@"; }
helm() { "$K8S_HOME/bin/helm" --kubeconfig "$cluster/kubeconfig" "$@"; }
ctr() { command ctr --address "$containerd_socket" --namespace k8s.io "$@"; }

# run_in_background NAME COMMAND...
run_in_background() {
  setsid "${@:2}" >"$cluster/$1.log" 2>&1 8>&- &
  cluster_pids+=($!)
  disown
}

# The cluster's DNS knows what is written to $cluster/dns as lines of /etc/hosts, and nothing else.
start_dns() {
  mkdir -p "$cluster/dns"
  run_in_background dns dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
    --user=root --pid-file= --listen-address="$pod_gateway" --bind-interfaces --hostsdir="$cluster/dns" --local=/#/
}

# name_service SERVICE NAMESPACE: as the API server has its endpoints now.
name_service() {
  local addresses
  addresses=$(kubectl --namespace "$2" get endpoints "$1" --output 'jsonpath={.subsets[*].addresses[*].ip}')
  [[ -n $addresses ]] || return 1
  # shellcheck disable=SC2086  # one word an address
  printf "%s $1.$2.svc.cluster.local\n" $addresses >"$cluster/dns/$2-$1"
}

# Kubelet and the pods' network set these for good, and no option moves these folders.
save_settings() {
  local name
  for name in /opt/containerd /var/lib/cni /var/lib/kubelet /var/log/containers /var/log/pods; do
    [[ -e $name ]] || new_folders+=("$name")
  done
  for name in net/ipv4/ip_forward vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    [[ ! -r /proc/sys/$name ]] || saved_settings+=("$name=$(<"/proc/sys/$name")")
  done
}

restore_settings() {
  local setting
  for setting in "${saved_settings[@]}"; do
    [[ $(<"/proc/sys/${setting%%=*}") == "${setting#*=}" ]] || echo "${setting#*=}" >"/proc/sys/${setting%%=*}"
  done
}

# configure_containerd REGISTRY: what is asked for at docker.io is asked of this registry.
configure_containerd() {
  mkdir -p "$cluster/cni" "$cluster/etc/certs.d/docker.io"
  printf '[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$1" >"$cluster/etc/certs.d/docker.io/hosts.toml"
  cat >"$cluster/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp",
  "ipam": {"type": "host-local", "dataDir": "$cluster/addresses", "subnet": "${pod_gateway%.*}.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  cat >"$cluster/etc/config.toml" <<TOML
version = 2
root = "$cluster/containerd"
state = "$cluster/containerd-run"
[grpc]
  address = "$containerd_socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$cluster/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$cluster/etc/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$cluster/cni"
TOML
}

start_containerd() {
  run_in_background containerd containerd --config "$cluster/etc/config.toml"
  containerd_pid=$!
  wait_until ctr version >"$cluster/ctr.log" 2>&1 || fail "containerd does not start: $(tail -n 3 "$cluster/containerd.log")"
}

write_scheduler_config() {
  local version=v1 addresses=
  case $("$K8S_HOME/bin/kube-scheduler" --version) in
    *' v1.2'[0-2].*)
      version=v1beta1
      # Its flags don't count beside a file.
      printf -v addresses '%sBindAddress: "127.0.0.1:%s"\n' healthz "$(free_port)" metrics "$(free_port)"
      ;;
    *' v1.2'[34].*) version=v1beta2 ;;
  esac
  cat >"$cluster/scheduler.yaml" <<YAML
apiVersion: kubescheduler.config.k8s.io/$version
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: "$cluster/kubeconfig"}
leaderElection: {leaderElect: false}
extenders:
  - {urlPrefix: "http://$extender_address", filterVerb: filter, prioritizeVerb: prioritize, weight: 5,
     nodeCacheCapable: true, ignorable: true, httpTimeout: 3s}
$addresses
YAML
}

api_is_ready() { [[ $(kubectl get --raw /readyz 2>/dev/null) == ok ]]; }

start_control_plane() {
  local etcd peer token
  etcd=127.0.0.1:$(free_port) peer=127.0.0.1:$(free_port) token=$(openssl rand -hex 16)
  if ! ip -4 address show | grep -q "inet $api_address/"; then
    ip address add "$api_address/32" dev lo
    api_address_added=yes
  fi
  (umask 077 && echo "$token,admin,1,\"system:masters\"" >"$cluster/tokens.csv")
  openssl genrsa -out "$cluster/accounts.key" 2048 2>"$cluster/openssl.log"
  openssl rsa -in "$cluster/accounts.key" -pubout -out "$cluster/accounts.pub" 2>>"$cluster/openssl.log"
  run_in_background etcd etcd --data-dir "$cluster/etcd" --unsafe-no-fsync --listen-client-urls "http://$etcd" \
    --advertise-client-urls "http://$etcd" --listen-peer-urls "http://$peer" --initial-advertise-peer-urls "http://$peer" \
    --initial-cluster "default=http://$peer"
  run_in_background kube-apiserver "$K8S_HOME/bin/kube-apiserver" --etcd-servers="http://$etcd" \
    --bind-address="$api_address" --advertise-address=127.0.0.1 --secure-port=443 --cert-dir="$cluster/certificates" \
    --service-cluster-ip-range=10.96.0.0/24 --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$cluster/accounts.pub" --service-account-signing-key-file="$cluster/accounts.key" \
    --token-auth-file="$cluster/tokens.csv" --authorization-mode=RBAC --allow-privileged=true \
    --kubelet-preferred-address-types=Hostname
  (umask 077 && cat >"$cluster/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$api_address", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
YAML
  )
  wait_until api_is_ready || fail "kube-apiserver is not ready: $(tail -n 3 "$cluster/kube-apiserver.log")"
  run_in_background kube-controller-manager "$K8S_HOME/bin/kube-controller-manager" --kubeconfig="$cluster/kubeconfig" \
    --bind-address=127.0.0.1 --secure-port=0 --port=0 --leader-elect=false \
    --service-account-private-key-file="$cluster/accounts.key" --root-ca-file="$cluster/certificates/apiserver.crt"
  write_scheduler_config
  run_in_background kube-scheduler "$K8S_HOME/bin/kube-scheduler" --config="$cluster/scheduler.yaml" \
    --bind-address=127.0.0.1 --secure-port=0 --port=0
}

node_is_ready_in_cluster() { kubectl get node localhost 2>/dev/null | grep -q ' Ready'; }

start_kubelet() {
  run_in_background kubelet "$K8S_HOME/bin/kubelet" --kubeconfig="$cluster/kubeconfig" --root-dir="$cluster/kubelet" \
    --cert-dir="$cluster/kubelet-certificates" --container-runtime=remote \
    --container-runtime-endpoint="unix://$containerd_socket" --fail-swap-on=false --cgroup-driver=cgroupfs \
    --cgroups-per-qos=false --enforce-node-allocatable= --hostname-override=localhost --address=127.0.0.1 \
    --cluster-dns="$pod_gateway" --cluster-domain=cluster.local --port="$(free_port)" --healthz-port=0 --read-only-port=0 --anonymous-auth=true --authorization-mode=AlwaysAllow \
    --authentication-token-webhook=false --make-iptables-util-chains=false --eviction-hard= \
    --volume-plugin-dir="$cluster/plugins"
  # shellcheck disable=SC2034  # for whoever ends the node
  kubelet_pid=$!
  wait_until node_is_ready_in_cluster || fail "the node does not become ready: $(tail -n 5 "$cluster/kubelet.log")"
}

# The host's ends of pods' links: one that is left over would get what is sent to the next pod of its address.
delete_pod_links() {
  local link
  for link in $(ip -4 route | awk -v pods="${pod_gateway%.*}." 'index($1, pods) == 1 && $3 ~ /^veth/ { print $3 }'); do
    ip link delete "$link"
  done
}

# cluster_up REGISTRY
cluster_up() {
  save_settings
  delete_pod_links
  mkdir -p "$cluster"
  start_dns
  configure_containerd "$1"
  start_containerd
  start_control_plane
  start_kubelet
}

# Of the pods: what is left over when they could not be ended in order.
network_namespaces() {
  local container
  for container in $(ctr containers ls -q); do
    ctr containers info "$container" | jq -r '.Spec.linux.namespaces[]? | select(.type == "network") | .path // empty'
  done | grep '^/.*/netns/' | sort -u
}

# What is left of containerd's when it has been killed: shims, and what runs in their containers.
end_shims() {
  local pid
  for pid in $(pgrep -f "^[^ ]*containerd-shim.*$containerd_socket"); do
    pkill -KILL -P "$pid"
    kill -KILL "$pid"
  done
}

no_containers() { [[ -z $(ctr containers ls -q 2>/dev/null) ]]; }

# Ends pods in order if it can, and everything in any case; to be called once, from a trap, with set +e.
cluster_down() {
  local pid task path end
  if [[ -s $cluster/kubeconfig ]] && api_is_ready; then
    timeout 20 "$K8S_HOME/bin/kubectl" --kubeconfig "$cluster/kubeconfig" delete daemonset,deployment,pod --all \
      --all-namespaces --grace-period=5 --wait=false >"$cluster/delete.log" 2>&1
    end=$((SECONDS + 30))
    until no_containers || ((SECONDS >= end)); do sleep 0.5; done
  fi
  # All but containerd, which ends what is left.
  for pid in "${cluster_pids[@]}"; do [[ $pid == "$containerd_pid" ]] || kill -KILL "$pid" 2>/dev/null; done
  if [[ -S $containerd_socket ]]; then
    network_namespaces >"$cluster/namespaces" 2>/dev/null
    for task in $(ctr tasks ls -q 2>/dev/null); do ctr tasks kill -s KILL "$task" 2>/dev/null; done
    for task in $(ctr tasks ls -q 2>/dev/null); do ctr tasks delete --force "$task" >/dev/null 2>&1; done
    while read -r path; do umount "$path" && rm -f "$path"; done <"$cluster/namespaces"
  fi
  end_process "$containerd_pid" TERM
  end_shims
  [[ $api_address_added == no ]] || ip address delete "$api_address/32" dev lo
  delete_pod_links
  restore_settings
  ((${#new_folders[@]} == 0)) || rm -rf "${new_folders[@]}"
  rmdir /sys/fs/cgroup/k8s.io /sys/fs/cgroup/*/k8s.io 2>/dev/null
}
