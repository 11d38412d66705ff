# shellcheck shell=bash
# Several nodes on one machine, beside lib.sh: each on a loopback address of its own, 127.0.0.1 on, all with the same
# peers' port and the same swarm port. Sourced after lib.sh, whose variables these are.
# shellcheck disable=SC2034,SC2154

peer_port=$(free_port)
swarm_port=$(free_port)
# By number of the node, from 1.
declare -A node_pids=() node_listens=()
current_node=

# use_node N: whatever lib.sh does with "the node" is done with this one from now on.
use_node() {
  [[ -z $current_node ]] || node_pids[$current_node]=$node_pid
  current_node=$1
  data_dir=$work/node$1/data
  run_dir=$work/node$1/run
  config=$work/node$1/sluiced.yaml
  node_log=$work/node$1/sluiced.log
  node_pid=${node_pids[$1]-}
  node_listens[$1]=${node_listens[$1]-127.0.0.1:$(free_port)}
  listen=${node_listens[$1]}
  mkdir -p "$run_dir" "$work/node$1/mnt"
}

peer_address() { echo "127.0.0.$1:$peer_port"; }

# cluster_config N COUNT [YAML LINE...]: the part of node N's configuration that names COUNT nodes, itself among them;
# the further lines stand in the section "cluster".
cluster_config() {
  local i
  echo 'cluster:'
  echo "  listen: \"$(peer_address "$1")\""
  echo "  swarmPort: $swarm_port"
  echo '  members:'
  for ((i = 1; i <= $2; ++i)); do echo "    - \"$(peer_address "$i")\""; done
  (($# == 2)) || printf '  %s\n' "${@:3}"
}

# start_member N COUNT [YAML LINE...]: starts node N of COUNT, as cluster_config says. With nodes_tls set it is called
# node-N, and has the files that lib_tls.sh has installed for it.
start_member() {
  use_node "$1"
  if [[ -n ${nodes_tls-} ]]; then
    start_node "$(cluster_config "$@" "name: node-$1")" "$(tls_config "$1")"
  else
    start_node "$(cluster_config "$@")"
  fi
}

# nodes_down: ends all of them, with their keepers, and takes their mounts away.
nodes_down() {
  local n pid
  for n in "${!node_listens[@]}"; do
    mounts_below "$work/node$n" | while read -r point; do umount "$point" 2>/dev/null || umount -l "$point"; done
    use_node "$n"
    [[ -z $node_pid ]] || kill -TERM "$node_pid" 2>/dev/null
  done
  for n in "${!node_listens[@]}"; do
    use_node "$n"
    stop_node
    for pid in $(pgrep -f "^[^ ]*sluice-keeper.*$work/node$n/"); do end_process "$pid" TERM; done
  done
}
