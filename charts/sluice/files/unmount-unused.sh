#!/bin/sh
# Before the pod ends: unmounts what nobody uses, as its mounts end with it. What is busy stays, and its readers get
# errors until the next pod takes it down.   usage: unmount-unused.sh FOLDER SECONDS
# Always succeeds: nothing here may keep a pod from ending.
# What it says goes to the log of the pod.
[ ! -w /proc/1/fd/2 ] || exec >/proc/1/fd/2 2>&1
folder=$1
end=$(($(date +%s) + $2))

# The deepest first. The kernel writes a space in a path as \040, and printf reads that as \0040.
mounts() {
  while read -r _ _ _ _ point _ rest; do
    case " $rest" in *" - erofs "*) ;; *) continue ;; esac
    case $point in "$folder"/*) printf '%s\n' "$point" ;; esac
  done </proc/self/mountinfo | sort -r | sed 's/\\\([0-7]\{3\}\)/\\0\1/g'
}

mounts | while read -r escaped; do
  left=$((end - $(date +%s)))
  [ "$left" -gt 0 ] || break
  sluice --timeout "${left}s" umount "$(printf '%b' "$escaped")"
done
exit 0
