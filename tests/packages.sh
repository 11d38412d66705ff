# shellcheck shell=bash
# The Debian 12 packages that Sluice is built, tested and shown with. Sourced, not run.

# shellcheck disable=SC2034  # read by those who source this file
SLUICE_BUILD_PACKAGES=(
  build-essential ca-certificates ccache cmake git ninja-build pkg-config python3
  libabsl-dev libboost-dev libboost-system-dev libc-ares-dev libcli11-dev libcurl4-openssl-dev libfmt-dev
  libgmock-dev libgrpc++-dev libgtest-dev libprotobuf-dev librocksdb-dev libspdlog-dev libssl-dev
  libsystemd-dev libtorrent-rasterbar-dev libyaml-cpp-dev libzstd-dev nlohmann-json3-dev prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc zlib1g-dev
)
# shellcheck disable=SC2034
SLUICE_RUN_PACKAGES=(curl docker-registry e2fsprogs iproute2 jq procps util-linux zstd)
# shellcheck disable=SC2034
SLUICE_TEST_PACKAGES=(
  bindfs chromium clang-format containerd dnsmasq-base erofs-utils file iptables lintian prometheus
  python3-grpc-tools python3-grpcio python3-libtorrent python3-yaml shellcheck skopeo systemd umoci xfsprogs
)
# The test machine (tests/kernel/vm): QEMU, and what its kernel is built from and with.
# shellcheck disable=SC2034
SLUICE_VM_PACKAGES=(bc bison busybox-static cpio flex libelf-dev linux-source-6.1 qemu-system-x86 xz-utils)
# shellcheck disable=SC2034
SLUICE_FUZZ_PACKAGES=(clang llvm)
# What fetches tools that Debian lacks, if no npm is there already: Debian's goes with Debian's nodejs only.
# shellcheck disable=SC2034
SLUICE_NPM_PACKAGES=(npm)
# Kubernetes (tests/cluster): the node's image, and what a cluster of one machine consists of besides itself.
# shellcheck disable=SC2034
SLUICE_CLUSTER_PACKAGES=(
  buildah busybox-static containerd containernetworking-plugins debian-archive-keyring debootstrap etcd-server
  openssl runc
)
# shellcheck disable=SC2034
SLUICE_QUICKSTART_PACKAGES=(debian-archive-keyring debootstrap)

# install_packages NAME...: installs those that are missing; without any, it touches nothing.
# Returns 1, having said which are missing, if it may not install or could not.
install_packages() {
  local name missing=()
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if ((EUID)); then
    echo "These Debian packages are missing; install them as root and run this again:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "installing: ${missing[*]}" >&2
  local -x DEBIAN_FRONTEND=noninteractive
  # The lists may be absent or too old to fetch from: then refresh them and try once more.
  apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2 ||
    { apt-get update -qq >&2 && apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2; } ||
    {
      echo "apt-get could not install: ${missing[*]}" >&2
      return 1
    }
}
