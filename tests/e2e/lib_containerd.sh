# shellcheck shell=bash
# Containerds of the script's own. Sourced, after lib.sh; needs containerd.
# shellcheck disable=SC2154  # lib.sh sets $work

containerd_home=$work/containerd hosts_dir=$work/hosts

# use_containerd N: whatever is done with "the containerd" is done with that one of several from now on; without
# hosts.toml files as long as none are made.
use_containerd() {
  containerd_home=$work/containerd$1 hosts_dir=$work/hosts$1
  mkdir -p "$hosts_dir"
}

# configure_containerd [TOML LINE...]: its configuration; lines of no table come first.
configure_containerd() {
  cat >"$containerd_home.toml" <<END
version = 2
root = "$containerd_home"
state = "$containerd_home-run"
$1
[grpc]
  address = "$containerd_home.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$work/opt"
END
  printf '%s\n' "${@:2}" >>"$containerd_home.toml"
}
start_containerd() {
  configure_containerd 'disabled_plugins = ["io.containerd.grpc.v1.cri"]'
  run_containerd
}
# start_cri_containerd: one that serves CRI, and reads hosts.toml files in $hosts_dir. Snapshots as pull has them.
start_cri_containerd() {
  local cri='plugins."io.containerd.grpc.v1.cri"'
  configure_containerd '' "[$cri.containerd]" '  snapshotter = "native"' "[$cri.registry]" "  config_path = \"$hosts_dir\"" \
    "[$cri.cni]" "  bin_dir = \"$work/cni\"" "  conf_dir = \"$work/cni\""
  run_containerd
}
run_containerd() {
  containerd --config "$containerd_home.toml" >"$containerd_home.log" 2>&1 &
  wait_until ctr version >"$work/ctr.log" 2>&1 || fail "containerd does not start: $(tail -n 3 "$containerd_home.log")"
}
ctr() { command ctr --address "$containerd_home.sock" "$@"; }

# pull REFERENCE [CTR OPTION...]. The snapshotter works on any file system.
pull() {
  ctr images pull --hosts-dir "$hosts_dir" --plain-http --snapshotter native "${@:2}" "$1" >"$work/pull.log" 2>&1 ||
    fail "containerd can't pull $1: $(tail -n 3 "$work/pull.log")"
}

# forget_images: containerd has none of them, nor of their blobs, any more.
forget_images() {
  local image
  for image in $(ctr images ls -q); do ctr images rm --sync "$image" >&2; done
}
