#!/usr/bin/env bash
# What others do to mounts: umount(8), mount --move, copies in other namespaces; a mount point on a file system whose
# server hangs. What is said of mounts is what the kernel has, and only the mount that is concerned suffers.
source "$(dirname "$0")/lib.sh"

mkdir "$work/tree"
head -c 32M /dev/urandom >"$work/tree/a"
start_registry
start_node
push_tree "$work/tree" app
mount=$work/mnt/app
listed() { sluice status | grep -c "^$1 " || true; }
mounts_are() { [[ $(metric sluice_mounts) == "$1" ]]; }

# --- unmounted by others
mount_image app "$mount"
umount "$mount"
wait_until mounts_are 0 || fail "sluice_mounts counts what others unmounted"
[[ $(listed "$mount") == 0 ]] || fail "status lists what others unmounted"

# --- moved; which the kernel does only below what is private
mkdir -p "$work/private/from" "$work/private/to"
mount --bind "$work/private" "$work/private"
mount --make-private "$work/private"
mount_image app "$work/private/from"
mount --move "$work/private/from" "$work/private/to"
expect_failure "$exit_not_found" 'nothing of sluice' sluice umount "$work/private/from"
[[ $(listed "$work/private/to") == 1 ]] || fail "status does not list a mount at its new place"
stop_node
mount --move "$work/private/to" "$work/private/from"
restart_node
[[ $(listed "$work/private/from") == 1 ]] || fail "the next daemon does not know where a mount was moved to"
cmp -s "$work/private/from/a" "$work/tree/a" || fail "an image that was moved can't be read"
sluice umount "$work/private/from" || fail "a mount can't be unmounted at its new place"
umount "$work/private"

# --- copied into another namespace
mount_image app "$mount"
unshare -m --propagation private sleep 1000 &
copy=$!
in_copy() { grep -q " $mount " "/proc/$copy/mountinfo" && [[ $(readlink "/proc/$copy/ns/mnt") != $(readlink /proc/self/ns/mnt) ]]; }
wait_until in_copy || fail "no copy"
sluice umount "$mount"
expect_failure "$exit_refused" "copy.*pid $copy" sluice blob evict "$(data_blob_of app)"
kill "$copy"
wait_until sluice blob evict "$(data_blob_of app)" || fail "not evicted when the copy is gone"

# --- a mount point on a file system that hangs
mkdir -p "$work/real/point" "$work/net" "$work/mnt/one" "$work/mnt/two"
bindfs "$work/real" "$work/net"
server=$(pgrep -f "^bindfs $work/real")
mount_image app "$work/net/point"
mount_image app "$work/mnt/one"
kill -STOP "$server"
# Until the kernel asks again for names that it has looked up.
sleep 1.2
sluice umount "$work/mnt/one" || fail "another mount can't be taken away"
mount_image app "$work/mnt/two" || fail "another image can't be mounted"
expect_failure "$exit_failed" 'answer' sluice umount "$work/net/point"
expect_failure "$exit_failed" 'answer' sluice mount "$registry/app:1" "$work/net/other"
stop_node
restart_node
alive "$node_pid" || fail "sluiced does not start meanwhile"
cmp -s "$work/mnt/two/a" "$work/tree/a" || fail "another image can't be read"
kill -CONT "$server"
point_gone() { ! grep -q " $work/net/point " /proc/self/mountinfo || sluice umount "$work/net/point"; }
wait_until point_gone || fail "it can't be unmounted when its file system answers again"
umount "$work/net"
