#!/bin/bash
# On each node, before `helm uninstall`: asks its daemon, by its socket, and leaves what it says as this container's
# message, which uninstall-gather.sh reads. The first line is "ok", "used" or "failed".
# usage: uninstall-node.sh look|unmount|force SECONDS
# A daemon that does not answer is asked again for so long. Always succeeds: what failed is told, and not tried anew.
set -u
end=$((SECONDS + $2))
# Kubelet takes 4,096 bytes.
message_bytes_max=3500
message=${TERMINATION_LOG:-/dev/termination-log}

case $1 in
  look) how=(--dry-run) ;;
  unmount) how=() ;;
  force) how=(--force) ;;
  *) echo "uninstall-node.sh: \"$1\" is none of look, unmount, force" >&2; exit 2 ;;
esac

while :; do
  status=0
  said=$(sluice --timeout 60s umount --all "${how[@]}" 2>&1) || status=$?
  # 4: nobody answers on the socket.
  ((status == 4 && SECONDS < end)) || break
  sleep 1
done
case $status in
  0) word=ok ;;
  5) word=used ;;
  *) word=failed ;;
esac
if ((${#said} > message_bytes_max)); then
  said="${said::message_bytes_max}"$'\n'"and more: on the node, \"sluice status --holders\" tells all"
fi
printf '%s\n%s\n' "$word" "$said" | tee "$message"
exit 0
