# shellcheck shell=bash
# A containerd of the script's own. Sourced, after lib.sh; needs containerd.
# shellcheck disable=SC2154  # lib.sh sets $work

containerd_socket=$work/containerd.sock

# configure_containerd [TOML LINE...]: its configuration; lines of no table come first.
configure_containerd() {
  cat >"$work/containerd.toml" <<END
version = 2
root = "$work/containerd"
state = "$work/containerd-run"
$1
[grpc]
  address = "$containerd_socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$work/opt"
END
  printf '%s\n' "${@:2}" >>"$work/containerd.toml"
}
start_containerd() {
  configure_containerd 'disabled_plugins = ["io.containerd.grpc.v1.cri"]'
  run_containerd
}
# start_cri_containerd: one that serves CRI, and reads hosts.toml files in $work/hosts. Snapshots as pull has them.
start_cri_containerd() {
  local cri='plugins."io.containerd.grpc.v1.cri"'
  configure_containerd '' "[$cri.containerd]" '  snapshotter = "native"' "[$cri.registry]" "  config_path = \"$work/hosts\"" \
    "[$cri.cni]" "  bin_dir = \"$work/cni\"" "  conf_dir = \"$work/cni\""
  run_containerd
}
run_containerd() {
  containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
  wait_until ctr version >"$work/ctr.log" 2>&1 || fail "containerd does not start: $(tail -n 3 "$work/containerd.log")"
}
ctr() { command ctr --address "$containerd_socket" "$@"; }

# pull REFERENCE [CTR OPTION...]. The snapshotter works on any file system.
pull() {
  ctr images pull --hosts-dir "$work/hosts" --plain-http --snapshotter native "${@:2}" "$1" >"$work/pull.log" 2>&1 ||
    fail "containerd can't pull $1: $(tail -n 3 "$work/pull.log")"
}

# forget_images: containerd has none of them, nor of their blobs, any more.
forget_images() {
  local image
  for image in $(ctr images ls -q); do ctr images rm --sync "$image" >&2; done
}
