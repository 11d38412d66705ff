#!/usr/bin/env bash
# Data directories that can't be: sluiced says why and ends; and of two daemons on one directory the second gives way.
source "$(dirname "$0")/lib.sh"

# refused PATTERN: with the data directory as it now is.
refused() {
  write_config
  expect_failure 1 "$1" "$SLUICE_BIN/sluiced" --config "$config"
}

note "a file in its place"
touch "$work/file"
data_dir=$work/file refused "$work/file"

note "read-only"
mkdir "$work/read-only"
mount -t tmpfs -o ro tmpfs "$work/read-only"
data_dir=$work/read-only refused 'read-only'

note "a file system that can't be watched"
mkdir "$work/tmpfs"
mount -t tmpfs tmpfs "$work/tmpfs"
BACKEND=fanotify data_dir=$work/tmpfs refused 'tmpfs|file system|ext4'

note "a file system that has no size to take a part of"
mkdir "$work/sizeless"
mount -t tmpfs -o size=0,mode=755 tmpfs "$work/sizeless"
BACKEND=fuse data_dir=$work/sizeless/data refused 'store.capacity.*does not say how large'

note "without root, the kernel's door can't be opened"
chmod 755 "$work"
cp -r "$SLUICE_BIN/../libexec" "$work/libexec"
mkdir "$work/bin" && cp "$SLUICE_BIN/sluiced" "$work/bin/"
install -d -o 65534 -g 65534 "$work/nobody"
BACKEND=fanotify data_dir=$work/nobody/data run_dir=$work/nobody write_config
expect_failure 1 'root|CAP_SYS_ADMIN|privilege|permitted' \
  setpriv --reuid=65534 --regid=65534 --clear-groups "$work/bin/sluiced" --config "$config"

note "a second daemon on the same directory"
start_node
first=$config
config=$work/second.yaml listen=127.0.0.1:$(free_port) run_dir=$work/second-run write_config
expect_failure 1 'another|in use|already|lock' "$SLUICE_BIN/sluiced" --config "$work/second.yaml"
config=$first
alive "$node_pid" && sluice status >"$work/status" || fail "the first daemon did not survive the second"

note "one that was moved away is not made anew"
start_registry
stop_node
start_node
mkdir -p "$work/tree" "$work/mnt"
echo bytes >"$work/tree/file"
push_tree "$work/tree" app
mv "$data_dir" "$work/moved"
expect_failure 3 "$data_dir.*No such file" sluice mount "$registry/app:1" "$work/mnt"
[[ ! -e $data_dir ]] || fail "there is another one: $(find "$data_dir")"
mv "$work/moved" "$data_dir"
sluice mount "$registry/app:1" "$work/mnt" >&2
[[ $(<"$work/mnt/file") == bytes ]] || fail "the node does not go on with it"
