#!/usr/bin/env bash
# Builds the test machine's kernel, Debian's Linux 6.1 with what kernel.config asks for, once: it is kept in the cache
# until the kernel, its configuration or this script changes. Prints where it lies.
set -euo pipefail
vm_dir=$(cd "$(dirname "$0")" && pwd)
source "$vm_dir/lib_vm.sh"

usage() {
  cat <<'END'
usage: build_kernel.sh [--path]

Prints the path of the kernel and builds it if it is not there yet; with --path it never builds, and exits with 1
if there is none. JOBS sets how many compilers run at once (default: one per processor).
END
}

only_path=no
case ${1-} in
  '') ;;
  --path) only_path=yes ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

readonly package=linux-source-6.1 fragment=$vm_dir/kernel.config
readonly archive=/usr/src/$package.tar.xz

version=$(dpkg-query -W -f='${Version}' "$package" 2>/dev/null) && [[ -r $archive ]] ||
  skip "the kernel's source is missing: apt-get install $package"
key=$({ echo "$version"; cat "$fragment" "$vm_dir/build_kernel.sh"; } | sha256sum | cut -c1-16)
readonly kernel=$vm_cache/kernel/$key/bzImage

if [[ -s $kernel ]]; then
  [[ $only_path == yes ]] || echo "cached: Linux of $package $version" >&2
  echo "$kernel"
  exit 0
fi
[[ $only_path == no ]] || { echo "no kernel yet: bash $0" >&2; exit 1; }
require gcc build-essential make build-essential flex flex bison bison bc bc xz xz-utils
for header in libelf.h:libelf-dev openssl/opensslv.h:libssl-dev; do
  echo "#include <${header%:*}>" | gcc -E -o /dev/null - 2>/dev/null || skip "a header is missing: apt-get install ${header#*:}"
done

# One at a time: whoever comes second waits, and finds the kernel in the cache. The lock goes when this process does,
# so that what lies in the build tree after it is taken is a dead build's.
mkdir -p "$vm_cache/kernel"
exec {lock}>"$vm_cache/kernel/lock"
flock -n "$lock" || { echo "another build of the kernel is under way: waiting for it" >&2; flock "$lock"; }
[[ -s $kernel ]] && { echo "$kernel"; exit 0; }
readonly tree=$vm_cache/kernel/tree
make_pid=

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [[ -z $make_pid ]] || { kill "$make_pid" && wait "$make_pid"; } 2>/dev/null || true
  rm -rf "$tree"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Not in the foreground, where a signal would have to wait for it to end.
in_tree() { "$@" {lock}>&- & make_pid=$!; wait "$make_pid" || { make_pid=; return 1; }; make_pid=; }

compiler=gcc
! command -v ccache >/dev/null || compiler="ccache gcc"
export KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=sluice KBUILD_BUILD_HOST=sluice
# Each build has it by the same name, or the compiler's cache would know none of the files.
build() { in_tree make -C "$tree" --silent CC="$compiler" HOSTCC="$compiler" "$@" >"$tree/make.log" 2>&1; }

echo "building Linux of $package $version, which takes some minutes" >&2
rm -rf "$tree"
mkdir "$tree"
in_tree tar -xf "$archive" -C "$tree" --strip-components=1
cp "$fragment" "$tree/kernel/configs/sluice.config"
build tinyconfig sluice.config && build olddefconfig ||
  { tail -n 20 "$tree/make.log" >&2; echo "the kernel can't be configured" >&2; exit 1; }

# What is asked for and can't be had is dropped in silence: a symbol that is gone, or lacks one that it depends on.
mapfile -t dropped < <(grep '^CONFIG_' "$fragment" | grep -vxFf "$tree/.config")
((${#dropped[@]} == 0)) ||
  { printf 'not in this kernel, or it lacks what it depends on: %s\n' "${dropped[@]}" >&2; exit 1; }

build -j"${JOBS:-$(nproc)}" bzImage || { tail -n 20 "$tree/make.log" >&2; echo "the kernel can't be built" >&2; exit 1; }

# The cache holds a whole kernel or none.
find "$vm_cache/kernel" -mindepth 1 -maxdepth 1 -type d ! -name tree -mtime +30 -exec rm -rf {} +
mkdir -p "$(dirname "$kernel")"
cp "$tree/arch/x86/boot/bzImage" "$kernel.new"
mv "$kernel.new" "$kernel"
echo "$kernel"
