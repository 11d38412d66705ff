#!/usr/bin/env bash
# Builds the node's image with charts/sluice/Dockerfile and pushes it: see usage.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/packages.sh

usage() {
  cat <<'USAGE'
usage: bash tests/cluster/image.sh HOST:PORT

Builds charts/sluice/Dockerfile with buildah, as root, on a Debian 12 that debootstrap makes, and pushes the image to a
registry without TLS as HOST:PORT/sluice/sluice:test; beside it library/pause:1, which kubelet needs. The Debian,
buildah's layers and the compiler's cache are kept in ~/.cache/sluice, so that a second run takes less.
USAGE
}

[[ ${1-} == -h || ${1-} == --help ]] && { usage; exit 0; }
(($# == 1)) && [[ $1 =~ ^[^/]+:[0-9]+$ ]] || { usage >&2; exit 2; }
((EUID == 0)) || { echo "tests/cluster/image.sh: run it as root" >&2; exit 2; }
registry=$1
install_packages "${SLUICE_CLUSTER_PACKAGES[@]}"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
base=localhost/sluice-base:bookworm
work=
build=(buildah --root "$cache/buildah" --runroot "$cache/buildah-run")
# Debian's name for the machine's processor goes into the name, as caches are carried about.
debian=$cache/debian-bookworm-$(dpkg --print-architecture)-minbase.tar
mkdir -p "$cache"

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  "${build[@]}" rm --all >/dev/null 2>&1 || true
  [[ -z $work ]] || rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Where this machine's apt gets Debian bookworm from.
bookworm_mirror() {
  # shellcheck disable=SC2016  # the variable is apt's
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
    head -n 1
}

make_debian() {
  local mirror
  mirror=$(bookworm_mirror)
  [[ -n $mirror ]] || { apt-get update -qq >&2; mirror=$(bookworm_mirror); }
  [[ -n $mirror ]] || { echo "apt has no mirror of Debian bookworm configured" >&2; return 1; }
  work=$(mktemp -d -p "$cache" debootstrap-XXXXXXXX)
  debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    bookworm "$work/root" "$mirror" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; return 1; }
  rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
  tar --numeric-owner --xattrs -C "$work/root" -cf "$debian.new" .
  mv "$debian.new" "$debian"
  rm -rf "$work"
  work=
}

[[ -s $debian ]] || make_debian
if ! "${build[@]}" inspect --type image "$base" >/dev/null 2>&1; then
  container=$("${build[@]}" from scratch)
  "${build[@]}" add "$container" "$debian" / >/dev/null
  "${build[@]}" commit --quiet "$container" "$base" >/dev/null
fi

# What holds a pod's namespaces while its containers come and go.
if ! "${build[@]}" inspect --type image localhost/pause >/dev/null 2>&1; then
  container=$("${build[@]}" from scratch)
  "${build[@]}" copy --quiet "$container" /bin/busybox /bin/busybox >/dev/null
  "${build[@]}" config --entrypoint '["/bin/busybox", "sleep", "1000000000"]' "$container"
  "${build[@]}" commit --quiet "$container" localhost/pause >/dev/null
fi

# Not the machine's own: what a compiler of another distribution has cached is of no use here.
compiler_cache=$cache/ccache
mkdir -p "$compiler_cache"
"${build[@]}" build --isolation chroot --layers --pull-never --build-arg "BASE=$base" \
  --volume "$compiler_cache:/root/.cache/ccache:rw" -f charts/sluice/Dockerfile -t localhost/sluice . >&2
push() { "${build[@]}" push --quiet --tls-verify=false "$1" "docker://$registry/$2" >&2; }
push localhost/pause library/pause:1
push localhost/sluice sluice/sluice:test
