# shellcheck shell=bash
# A small Debian host: a root file system, booted by its own systemd in namespaces and a cgroup of its own, without a
# network. Sourced, after tests/e2e/lib.sh and lib_images.sh, whose cleanup ends it.
# shellcheck disable=SC2154  # lib.sh sets $work

host_root=$work/root
host_netns=sluice-host-$$
host_cgroup=$work/cgroup/$host_netns
host_init=

# host_unpack DEPENDENCIES: its files, with what satisfies these (as a package's field has them), from the mirror that this
# machine's apt has; what was fetched once is kept beside the root file system.
host_unpack() {
  local archives=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/archives mirror tarball
  tarball=$(root_tarball)
  mirror=$(bookworm_mirror)
  mkdir -p "$host_root" "$archives/partial"
  tar --numeric-owner -C "$host_root" -xpf "$tarball"
  # A root of a mount, as a host's is.
  mount --bind "$host_root" "$host_root"
  [[ -z $mirror ]] || echo "deb $mirror bookworm main" >"$host_root/etc/apt/sources.list"
  cp /etc/resolv.conf "$host_root/etc/resolv.conf"
  mount --bind "$archives" "$host_root/var/cache/apt/archives"
  mount -t proc proc "$host_root/proc"
  in_root apt-get update -qq >"$work/apt.log" 2>&1 || fail "apt-get update: $(tail -n 3 "$work/apt.log")"
  in_root apt-get -o Dpkg::Options::=--force-unsafe-io satisfy -qq -y --no-install-recommends "$1" >"$work/apt.log" 2>&1 ||
    fail "apt-get installs no '$1': $(tail -n 3 "$work/apt.log")"
  umount "$host_root/proc" "$host_root/var/cache/apt/archives"
}

in_root() { DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$host_root" "$@"; }

# In its own cgroup from the first process on, so that nothing of it can be left over.
host_boot() {
  mkdir "$work/cgroup"
  mount -t cgroup2 none "$work/cgroup"
  mkdir "$host_cgroup"
  ip netns add "$host_netns"
  ip -n "$host_netns" link set lo up
  # Until the old root is gone the copies of its mounts go with them: or what other tests unmount now stays in use.
  # shellcheck disable=SC2016  # for the shell that is started here
  setsid bash -euc '
    echo $$ >"$3/cgroup.procs"
    exec nsenter "--net=/run/netns/$2" unshare --mount --pid --fork --uts --ipc --cgroup --propagation slave bash -euc "
      cd \"\$1\"
      mount -t proc proc proc
      mount -t sysfs sys sys
      mount -t cgroup2 none sys/fs/cgroup
      mount -t tmpfs -o mode=755 none dev
      for device in null zero full random urandom tty fuse; do
        touch dev/\$device
        mount --bind /dev/\$device dev/\$device
      done
      ln -s /proc/self/fd dev/fd
      mkdir dev/pts
      mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
      ln -s pts/ptmx dev/ptmx
      mount -t tmpfs none run
      mount -t tmpfs none tmp
      mkdir -p mnt/old
      pivot_root . mnt/old
      umount -l mnt/old
      rmdir mnt/old
      exec env -i container=sluice PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
    " bash "$1"' bash "$host_root" "$host_netns" "$host_cgroup" >"$work/boot.log" 2>&1 &
  disown
  wait_until host_is_up || fail "the host does not come up: $(tail -n 5 "$work/boot.log")"
}

host_is_up() {
  local pid
  for pid in $(cat "$host_cgroup"/cgroup.procs "$host_cgroup"/*/cgroup.procs 2>"$work/error"); do
    [[ $(readlink "/proc/$pid/exe") == */systemd ]] && host_init=$pid && break
  done
  [[ -n $host_init ]] && [[ $(on_host systemctl is-system-running 2>"$work/error") =~ ^(running|degraded)$ ]]
}

# on_host COMMAND...: as its root does.
on_host() {
  nsenter -t "$host_init" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"
}

# nodes_down: lib.sh's cleanup calls it before it takes mounts away.
nodes_down() {
  # The last process of a cgroup may take a moment to be gone.
  [[ -e $host_cgroup/cgroup.kill ]] && echo 1 >"$host_cgroup/cgroup.kill" && wait_until host_is_empty
  find "$host_cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
  ip netns del "$host_netns" 2>/dev/null
}
host_is_empty() { grep -qx 'populated 0' "$host_cgroup/cgroup.events"; }
