#!/bin/bash
# `helm test`: whether every node that the Service names is ready, and gives metrics.
# usage: ask-nodes.sh SERVICE PORT SECONDS
# Nodes may still be starting, so it asks again for so long. Says what is wrong of which, and fails, if no node is named
# or one is not as it should be by then.
set -u
service=$1 port=$2 end=$((SECONDS + $3))

# get ADDRESS PATH: the answer as it is on the wire; nothing, if none comes within 5 s.
get() {
  # shellcheck disable=SC2016  # the shell that is begun knows these
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "$2" "$0" >&3 && cat <&3' \
    "$1" "$port" "$2" 2>/dev/null
}

# ask ADDRESS: sets wrong to what is wrong of that node, or to nothing.
ask() {
  local answer
  wrong=
  answer=$(get "$1" /readyz)
  case ${answer%%$'\r'*} in
    'HTTP/1.'[01]' 200 '*) ;;
    '') wrong="$1: no answer on port $port" ;;
    *) wrong="$1 is not ready: ${answer##*$'\r\n\r\n'}" ;;
  esac
  [[ -z $wrong ]] || return
  # What this counts is there from a node's first second.
  [[ $(get "$1" /metrics) == *$'\nsluice_read_bytes_total'* ]] || wrong="$1 is ready, and gives no metrics of Sluice"
}

while :; do
  said=
  mapfile -t nodes < <(getent ahosts "$service" | awk '{ print $1 }' | sort -u)
  ((${#nodes[@]})) || said="$service names no node: is a pod there? (kubectl get pods)"
  for node in "${nodes[@]}"; do
    ask "$node"
    [[ -z $wrong ]] || said+="${said:+; }$wrong"
  done
  [[ -n $said ]] || break
  ((SECONDS < end)) || { echo "FAILED: $said" >&2; exit 1; }
  sleep 1
done
echo "${#nodes[@]} nodes are ready and give metrics: ${nodes[*]}"
