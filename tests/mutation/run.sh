#!/usr/bin/env bash
# Breaks the code on purpose, one place at a time, and sees whether the tests notice.
set -euo pipefail
cd "$(dirname "$0")/../.."

case ${1-} in
  -h | --help) exec python3 -B tests/mutation/run.py --help ;;
esac
source tests/packages.sh
install_packages "${SLUICE_BUILD_PACKAGES[@]}"
exec python3 -B tests/mutation/run.py "$@"
