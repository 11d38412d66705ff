#!/usr/bin/env bash
# The Debian package on a host that has nothing of us: lintian has no error to name; it installs what is needed to run,
# and a service that runs, mounts and is upgraded under its readers; it does not go while an image is in use; and
# when it was purged nothing is left.
source "$(dirname "$0")/../e2e/lib.sh"
source "$repository_root/tests/packages.sh"
source "$e2e_dir/lib_images.sh"
source "$repository_root/tests/package/lib_host.sh"
(cd "$work" && install_packages lintian file)

readonly service=sluiced.service image=127.0.0.1:5000/app:1 mount=/mnt/app

# What lies on its disk: logs and what apt and dpkg keep for themselves grow with any package.
files() { on_host find / -xdev -not -path '/var/log/*' -not -path '/var/cache/*' -not -path '/var/lib/apt/*' -not -path '/var/lib/dpkg/*-old'; }
main_pid() { on_host systemctl show -P MainPID "$service"; }
is_active() { [[ $(on_host systemctl is-active "$service") == active ]]; }
installed() { [[ $(on_host dpkg-query -W -f='${db:Status-Status}' sluice) == installed ]]; }
reads_right_there() { [[ $(checksum_of "/proc/$host_init/root$mount") == "$expected" ]] || fail "$1"; }
mounted() { on_host mountpoint -q "$mount"; }
keeper_runs() { on_host sh -c 'grep -lsx sluice-keeper /proc/[0-9]*/comm' >"$work/keepers"; }
# use_mount [COMMAND...]: a process of the host has its working directory in the mount, run by the command; end_use ends it.
use_mount() {
  # shellcheck disable=SC2016  # for the host's shell
  on_host "$@" sh -c 'cd "$1" && echo $$ >/run/user-of-mount && exec sleep 600' sh "$mount" &
  wait_until on_host test -s /run/user-of-mount || fail "nobody uses the mount"
}
end_use() { on_host sh -c 'kill "$(cat /run/user-of-mount)" && rm /run/user-of-mount'; }
keeper_left() { ! keeper_runs; }

note "the package is made of the programs as built, and lintian has no error to name"
(cd "$work" && cpack -G DEB --config "$SLUICE_BIN/../CPackConfig.cmake" -B "$work/deb") >"$work/cpack.log" 2>&1 ||
  fail "cpack: $(tail -n 5 "$work/cpack.log")"
package=$(ls "$work"/deb/sluice_*.deb)
lintian --allow-root --fail-on error "$package" >&2 || fail "lintian finds errors in the package"

note "a host without us that has what the package depends on, and no more"
host_unpack "systemd, $(dpkg-deb -f "$package" Depends)"
cp "$package" "$host_root/root/sluice.deb"
host_boot
files | sort >"$work/before"

note "apt installs it, and the service runs"
on_host apt-get install -qq -y /root/sluice.deb >"$work/apt.log" 2>&1 || fail "apt-get install: $(tail -n 5 "$work/apt.log")"
is_active || fail "the service does not run: $(on_host systemctl --no-pager status "$service")"
[[ $(on_host systemctl is-enabled "$service") == enabled ]] || fail "the service is not enabled"
on_host systemctl show -P Before "$service" | grep -qw containerd.service || fail "containerd would not wait for it"
version=$(dpkg-deb -f "$package" Version)
[[ $(on_host sluiced --version) == "sluiced ${version%-*}" ]] || fail "sluiced --version: $(on_host sluiced --version)"
on_host sluice config validate /etc/sluice/sluice.yaml >&2 || fail "the package's configuration is wrong"
for page in man1/sluice.1 man8/sluiced.8; do
  gzip -cd "$host_root/usr/share/man/$page.gz" | grep -q '^\.SH SYNOPSIS' || fail "there is no manual page $page"
done
on_host sh -c 'zcat /usr/share/man/man1/sluice.1.gz' | grep -q '^\.SH SLUICE IMAGE PUSH' || fail "sluice(1) lacks commands"

note "it mounts an image"
mkdir "$work/tree"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 4000000 --files 20
expected=$(checksum_of "$work/tree")
# Not by ip(8), which gives it copies of the mounts of other tests.
registry_runner=(nsenter "--net=/run/netns/$host_netns")
start_registry 127.0.0.1:5000
"${registry_runner[@]}" "$SLUICE_BIN/sluice" image push -q "$work/tree" "$image" >&2
sed -i 's|^  allow: .*|  allow: ["127.0.0.1:5000/*"]|' "$host_root/etc/sluice/sluice.yaml"
on_host systemctl restart "$service"
mkdir "$host_root$mount"
on_host sluice mount "$image" "$mount" >&2

note "an upgrade restarts it under a reader, and keeps the configuration"
use_mount
before=$(main_pid)
on_host dpkg -i /root/sluice.deb >"$work/apt.log" 2>&1 || fail "the upgrade fails: $(tail -n 5 "$work/apt.log")"
is_active && [[ $(main_pid) != "$before" ]] || fail "the upgrade does not restart the service"
grep -q 127.0.0.1:5000 "$host_root/etc/sluice/sluice.yaml" || fail "the upgrade changes the configuration"
reads_right_there "an image reads wrong after an upgrade"

note "it does not go while an image is in use"
if on_host apt-get remove -qq -y sluice >"$work/apt.log" 2>&1; then fail "it was removed under a reader"; fi
grep -q "  $mount (" "$work/apt.log" || fail "nothing says which mount is in use: $(cat "$work/apt.log")"
installed && is_active && mounted || fail "a refused removal changes something"
drop_page_cache
reads_right_there "an image reads wrong after a refused removal"
# Who is asked for while nobody answers is not forgotten either.
on_host systemctl stop "$service"
if on_host apt-get remove -qq -y sluice >"$work/apt.log" 2>&1; then fail "it was removed under a reader, unasked"; fi
grep -q "  $mount (sluiced does not run)" "$work/apt.log" || fail "nothing says what to start: $(cat "$work/apt.log")"
is_active || fail "the service does not come back after a refused removal"
end_use

note "it unmounts what nobody uses, takes its mirror out of containerd's configuration, and leaves data for a next time"
mkdir -p "$host_root/etc/containerd/certs.d"
printf '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n' \
  >"$host_root/etc/containerd/config.toml"
on_host sluice configure containerd >&2
# A copy of the mount in another namespace, which the keeper goes on for.
use_mount unshare --mount --propagation private
on_host apt-get remove -qq -y sluice >"$work/apt.log" 2>&1 || fail "it can't be removed: $(cat "$work/apt.log")"
if mounted; then fail "an image is mounted after the removal"; fi
if is_active; then fail "the service runs after the removal"; fi
[[ -z $(find "$host_root/etc/containerd" -name hosts.toml) ]] || fail "containerd asks a mirror that is gone"
[[ -d $host_root/var/lib/sluice/blobs && -f $host_root/etc/sluice/sluice.yaml ]] || fail "a removal takes data away"

note "a purge takes no data from under a mount"
if on_host apt-get purge -qq -y sluice >"$work/apt.log" 2>&1; then fail "it was purged under a mount"; fi
grep -q '/var/lib/sluice is in use' "$work/apt.log" || fail "nothing says why: $(cat "$work/apt.log")"
[[ -d $host_root/var/lib/sluice/blobs ]] || fail "a refused purge takes data away"
end_use

note "nothing is left after a purge"
wait_until keeper_left || fail "the keeper stays though nothing is mounted"
on_host apt-get purge -qq -y sluice >"$work/apt.log" 2>&1 || fail "it can't be purged: $(cat "$work/apt.log")"
rm -r "$host_root/etc/containerd"
rmdir "$host_root$mount"
files | sort >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "the file list is not what it was"
[[ -z $(on_host find /run -name '*sluice*') ]] || fail "something is left in /run"
