#!/usr/bin/env bash
# Builds the Debian package of this checkout; prints where it is. usage: bash node/package/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/packages.sh
install_packages "${SLUICE_BUILD_PACKAGES[@]}" dpkg-dev file
cmake --preset release >&2
cmake --build --preset release --target sluiced sluice sluice-keeper >&2
(cd build && cpack -G DEB) >&2
ls "$PWD"/build/sluice_*.deb
