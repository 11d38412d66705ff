#!/usr/bin/env bash
# Builds the node's image with charts/sluice/Dockerfile and pushes it: see usage.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/packages.sh

usage() {
  cat <<'USAGE'
usage: [PREBUILT=FOLDER] bash tests/cluster/image.sh HOST:PORT

Builds charts/sluice/Dockerfile with buildah, as root, on a Debian 12 that debootstrap makes, and pushes the image to a
registry without TLS as HOST:PORT/sluice/sluice:test, a next version as :next; beside it library/pause:1, which kubelet needs. The Debian,
buildah's layers and the compiler's cache are kept in ~/.cache/sluice, so that a second run takes less.
With PREBUILT, a build folder of this machine, which must be a Debian 12 too, its programs are put on that Debian with the
packages whose libraries they need, in a minute: the Dockerfile is not tried then.
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

# As the Dockerfile's first stage does it, by the compiler that it installs.
build_programs() {
  # Not the machine's own: what a compiler of another distribution has cached is of no use here.
  local compiler_cache=$cache/ccache
  mkdir -p "$compiler_cache"
  "${build[@]}" build --isolation chroot --layers --pull-never --build-arg "BASE=$base" \
    --volume "$compiler_cache:/root/.cache/ccache:rw" -f charts/sluice/Dockerfile -t localhost/sluice . >&2
}

# The packages that own the libraries that these programs are linked with.
library_packages() {
  local libraries owners library
  mapfile -t libraries < <(ldd "$@" | awk '$2 == "=>" { print $3 }' | sort -u)
  # A package may have /lib in its name of a library, or /usr/lib. All are asked for at once, as each call is slow.
  owners=$(dpkg-query -S "${libraries[@]}" "${libraries[@]/#//usr}" 2>/dev/null || true)
  for library in "${libraries[@]}"; do
    [[ $owners == *": $library"* || $owners == *": /usr$library"* ]] || { echo "PREBUILT: no package has $library" >&2; return 1; }
  done
  cut -d: -f1 <<<"$owners" | sort -u
}

# take_programs FOLDER
take_programs() {
  local programs=("$1/bin/sluiced" "$1/bin/sluice" "$1/libexec/sluice-keeper") packages runtime container
  [[ $(. /etc/os-release && echo "$VERSION_CODENAME") == bookworm ]] ||
    { echo "PREBUILT: this machine is no Debian 12, whose libraries the image has" >&2; return 1; }
  packages=$(library_packages "${programs[@]}")
  # By what is in it: a build that needs others makes another one.
  runtime=localhost/sluice-runtime:$(sha256sum <<<"$packages" | cut -c1-12)
  if ! "${build[@]}" inspect --type image "$runtime" >/dev/null 2>&1; then
    container=$("${build[@]}" from --pull-never "$base")
    # shellcheck disable=SC2086  # one word a package
    "${build[@]}" run --isolation chroot "$container" -- sh -euc \
      'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" &&
       rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb' sh ca-certificates $packages >&2
    "${build[@]}" commit --quiet "$container" "$runtime" >/dev/null
  fi
  work=$(mktemp -d -p "$cache" programs-XXXXXXXX)
  install -D --strip -t "$work/usr/bin" "${programs[@]:0:2}"
  install -D --strip -t "$work/usr/libexec" "${programs[2]}"
  container=$("${build[@]}" from --pull-never "$runtime")
  "${build[@]}" copy --quiet "$container" "$work" / >/dev/null
  "${build[@]}" config --entrypoint '["/usr/bin/sluiced", "--config", "/etc/sluice/sluice.yaml"]' "$container"
  "${build[@]}" commit --quiet "$container" localhost/sluice >/dev/null
  rm -rf "$work"
  work=
}

if [[ -n ${PREBUILT-} ]]; then take_programs "$PREBUILT"; else build_programs; fi
push() { "${build[@]}" push --quiet --tls-verify=false "$1" "docker://$registry/$2" >&2; }
push localhost/pause library/pause:1
push localhost/sluice sluice/sluice:test

# The next version has a keeper whose file differs, and whose protocol too where the tests' programs of another version
# are at hand.
container=$("${build[@]}" from --pull-never localhost/sluice)
other=${PREBUILT-}/tests/e2e/other_version
if [[ -n ${PREBUILT-} && -x $other/bin/sluiced ]]; then
  work=$(mktemp -d -p "$cache" programs-XXXXXXXX)
  install -D --strip -t "$work/usr/bin" "$other/bin/sluiced"
  install -D --strip -t "$work/usr/libexec" "$other/libexec/sluice-keeper"
  "${build[@]}" copy --quiet "$container" "$work" / >/dev/null
  rm -rf "$work"
  work=
fi
"${build[@]}" run --isolation chroot "$container" -- sh -c 'printf next >>/usr/libexec/sluice-keeper'
"${build[@]}" commit --quiet "$container" localhost/sluice-next >/dev/null
push localhost/sluice-next sluice/sluice:next
