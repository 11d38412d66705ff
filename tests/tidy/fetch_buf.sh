#!/usr/bin/env bash
# Prints the path of buf, fetching it into ~/.cache/sluice/buf first if it is not there. Without a network that works
# once it has been fetched. Exits with 77, having said why, if it can't be had.
set -euo pipefail

readonly version=1.75.0
case $(uname -m) in
  x86_64) package=buf-linux-x64 ;;
  aarch64) package=buf-linux-aarch64 ;;
  *) echo "fetch_buf.sh: there is no buf for $(uname -m)" >&2; exit 77 ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/buf/$version
binary=$cache/node_modules/@bufbuild/$package/bin/buf

if [[ ! -x $binary ]]; then
  command -v npm >/dev/null || { echo "fetch_buf.sh: npm is missing; install the Debian package npm" >&2; exit 77; }
  mkdir -p "${cache%/*}"
  # Beside its place first: two that fetch at once do not mix, and a fetch that is cut short leaves nothing half there.
  fetched=$(mktemp -d "$cache.XXXXXX")
  trap 'rm -rf "$fetched"' EXIT
  npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$fetched" "@bufbuild/$package@$version" \
    >&2 || { echo "fetch_buf.sh: npm can't fetch @bufbuild/$package@$version" >&2; exit 77; }
  mv -T "$fetched" "$cache" 2>/dev/null || [[ -x $binary ]]
fi
echo "$binary"
