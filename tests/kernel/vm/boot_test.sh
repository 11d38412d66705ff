#!/usr/bin/env bash
# Run on the test machine: what the other tests there build on is there. The kernel reads an EROFS image through its
# cache on demand, knows FUSE, loop devices, namespaces and control groups, and Sluice's programs and the registry run.
source "$(dirname "$0")/../../e2e/lib.sh"
vm_dir=$(cd "$(dirname "$0")" && pwd)
[[ ${SLUICE_IN_VM-} == 1 ]] || { echo "run this by run.sh, on the test machine" >&2; exit 2; }

note "$(uname -sr), $(nproc) processors, $(findmnt -no FSTYPE -T "$work") at $work"
[[ $(findmnt -no FSTYPE -T "$work") == ext4 ]] || fail "no disk for data directories"
if touch "$repository_root/written" 2>/dev/null; then fail "the host's files can be written to"; fi

note "an EROFS image is read on demand through the kernel's cache"
grep -qw erofs /proc/filesystems || fail "no EROFS"
mkdir -p "$work/tree" "$work/cache"
python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 2000000 --files 20
mkfs.erofs --quiet "$work/image.erofs" "$work/tree" >"$work/mkfs.log" 2>&1 || fail "$(tail -n 1 "$work/mkfs.log")"
python3 "$vm_dir/serve_image.py" --cache "$work/cache" --tag boot --image "$work/image.erofs" >"$work/served" &
server=$!
wait_until grep -q bound "$work/served" || fail "the kernel's cache can't be bound"
mount -t erofs -o ro,domain_id=boot,fsid=image none "$work/mnt" || fail "the image can't be mounted"
[[ $(checksum_of "$work/mnt") == $(checksum_of "$work/tree") ]] || fail "the image reads differently"
umount "$work/mnt"
kill "$server"
grep -q read "$work/served" || fail "nothing was asked for"

note "loop devices and FUSE"
truncate -s 16M "$work/small.img"
mkfs.ext4 -q "$work/small.img"
mount -o loop "$work/small.img" "$work/mnt" || fail "no loop device"
umount "$work/mnt"
exec 3<>/dev/fuse || fail "no FUSE"
exec 3>&-

note "namespaces and control groups"
unshare --mount --pid --net --ipc --uts --user --map-root-user --fork true || fail "no namespaces"
mkdir /sys/fs/cgroup/boot && echo $$ >/sys/fs/cgroup/boot/cgroup.procs || fail "no control groups"

note "programs"
"$SLUICE_BIN/sluiced" --version || fail "sluiced does not run"
"$SLUICE_BIN/sluice" version || fail "sluice does not run"
start_registry
[[ $(curl -fsS "http://$registry/v2/") == '{}' ]] || fail "the registry does not answer"
