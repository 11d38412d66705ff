#!/usr/bin/env bash
# The kernel's cache can't be had: sluiced says why and ends. Where the kernel has none, that is all there is to see.
source "$(dirname "$0")/lib.sh"
export BACKEND=cachefiles

refused() {
  write_config
  expect_failure 1 "$1" "$SLUICE_BIN/sluiced" --config "$config"
}

if [[ ! -e /dev/cachefiles ]]; then
  note "a kernel without on-demand cachefiles"
  refused 'cachefiles can.t be used: .*CONFIG_(CACHEFILES|EROFS_FS)_ONDEMAND'
  expect_failure 2 'ondemand.backend.*cachefile' "$SLUICE_BIN/sluiced" --config "$config" --set ondemand.backend=cachefile
  exit
fi

note "a file system that the kernel can't cache on"
mkdir "$work/tmpfs"
mount -t tmpfs tmpfs "$work/tmpfs"
data_dir=$work/tmpfs/data refused 'ext4 or xfs'

note "the device is in use: there is one cache in the machine"
exec 9<>/dev/cachefiles
refused '/dev/cachefiles is in use'
exec 9>&-

note "a domain that the kernel would take for something else"
write_config
expect_failure 1 'ondemand.domain.*a/b' "$SLUICE_BIN/sluiced" --config "$config" --set ondemand.domain=a/b

note "and with what it needs, the node starts"
start_node
