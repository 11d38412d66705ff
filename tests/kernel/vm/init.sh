#!/bin/sh
# The first process of the test machine. Makes the host's file system, which stays read-only, its root, with places of
# its own to write to, runs the command that run.sh has put beside it and reports how that ended.
#
# The file `show` names the paths of the host that are seen also below the places of its own, parents first.
set -eu

readonly own=/run/vm busybox=/run/vm/busybox

enter_root() {
  /bin/busybox mkdir -p /dev /proc /host /root /disk
  /bin/busybox mount -t proc proc /proc
  /bin/busybox mount -t devtmpfs dev /dev
  /bin/busybox --install -s /bin
  export PATH=/bin
  mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
  mount --bind /host /root
  mount -t ext4 -o noatime /dev/vda /disk

  # Data directories need a file system that the kernel lets us watch and cache in: the disk, where scripts put them.
  mount --bind /disk /root/var/tmp
  mount -t tmpfs -o mode=1777 tmp /root/tmp
  mount -t tmpfs -o mode=755 run /root/run
  mount -t devtmpfs dev /root/dev
  mkdir -p /root/dev/pts /root/dev/shm
  ln -s /proc/self/fd /root/dev/fd
  ln -s fd/0 /root/dev/stdin; ln -s fd/1 /root/dev/stdout; ln -s fd/2 /root/dev/stderr
  mount -t devpts -o mode=620,ptmxmode=666 devpts /root/dev/pts
  mount -t tmpfs -o mode=1777 shm /root/dev/shm
  mount -t proc proc /root/proc
  mount -t sysfs sys /root/sys
  mount -t cgroup2 cgroup /root/sys/fs/cgroup
  chmod 1777 /root/var/tmp

  while read -r path; do
    [ ! -e "/root$path" ] || continue
    if [ -d "/host$path" ]; then
      mkdir -p "/root$path"
    else
      mkdir -p "/root${path%/*}"
      : >"/root$path"
    fi
    mount --bind "/host$path" "/root$path"
  done </show

  mkdir "/root$own"
  cp /bin/busybox /init /command "/root$own"
  umount -l /host
  umount /proc
  exec switch_root /root "$own/busybox" sh "$own/init" in_root
}

# port NAME: the device of one of run.sh's ports, which the kernel finds while this is running already.
port() {
  while :; do
    for port in /sys/class/virtio-ports/*; do
      if [ -e "$port/name" ] && read -r name <"$port/name" && [ "$name" = "$1" ]; then
        echo "/dev/${port##*/}"
        return
      fi
    done
    $busybox sleep 0.05
  done
}

run_command() {
  $busybox ip link set lo up
  # shellcheck disable=SC3045  # busybox knows it
  ulimit -n 65536

  # The ports take one writer each, and scripts open /dev/stderr anew: so they get pipes.
  $busybox mkfifo $own/out $own/err
  $busybox cat $own/out >"$(port out)" &
  out=$!
  $busybox cat $own/err >"$(port err)" &
  err=$!
  status=0
  /bin/bash $own/command </dev/null >$own/out 2>$own/err || status=$?

  # What it left running would hold the pipes open.
  for process in /proc/[0-9]*; do
    case ${process#/proc/} in
      1 | "$out" | "$err") ;;
      *) kill -KILL "${process#/proc/}" 2>/dev/null || true ;;
    esac
  done
  wait "$out" "$err" || true
  echo "$status" >"$(port status)"
  $busybox reboot -f
}

if [ "${1-}" = in_root ]; then run_command; else enter_root; fi
