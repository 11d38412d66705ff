#!/bin/bash
# Before `helm uninstall`: fails while a node has images mounted, which would be left without a daemon.
# usage: refuse-while-mounted.sh SERVICE PORT
# A node that does not answer may have some, and refuses too. Says which nodes, how many, and what to do.
set -u
service=$1 port=$2

# The answer as it is on the wire; nothing, if none comes within 5 s.
metrics() {
  # shellcheck disable=SC2016  # the shell that is begun knows these
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /metrics HTTP/1.0\r\nHost: %s\r\n\r\n" "$0" >&3 && cat <&3' \
    "$1" "$port" 2>/dev/null
}

mapfile -t nodes < <(getent ahosts "$service" | awk '{ print $1 }' | sort -u)
said=
for node in "${nodes[@]}"; do
  mounts=$(metrics "$node" | awk '$1 == "sluice_mounts" { print $2 }')
  case $mounts in
    0) ;;
    '') said+="${said:+; }$node: no answer on port $port, and it may have images mounted" ;;
    *) said+="${said:+; }$node has $mounts images mounted" ;;
  esac
done
if [[ -n $said ]]; then
  echo "FAILED: $said. Unmount them first: on the node, or by kubectl exec in its pod, \"sluice status\" says where they" \
    "are, \"sluice umount\" unmounts them, and \"fuser -vm DIR\" on the host names who uses one. To leave them as they are:" \
    "helm uninstall --no-hooks" >&2
  exit 1
fi
echo "no image is mounted on any of ${#nodes[@]} nodes"
