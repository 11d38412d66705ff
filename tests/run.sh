#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/packages.sh

usage() {
  cat <<'END'
usage: bash tests/run.sh [--preset release|dev|asan|tsan|fuzz] [ctest arguments]

  bash tests/run.sh                       everything
  bash tests/run.sh -L unit               one label: unit, integration, net, kernel, fault, sim, fuzz, vm, tidy
  bash tests/run.sh --preset asan -R mount
  SECONDS_PER_TARGET=600 bash tests/run.sh --preset fuzz

The tests labelled vm run on a machine of their own, whose kernel is built once, in some ten minutes, and kept in
~/.cache/sluice/kernel.

The tests of the chart need Helm, which is fetched once and kept in ~/.cache/sluice/helm; K8S_HOME/bin/helm is taken
instead if it is there. The chart on a real Kubernetes is a test of its own: bash tests/cluster/run.sh --help.

How many kills the kill tests make: SLUICE_KILL_ROUNDS (daemon, small reads; default 2000), KILLS (150), DAEMON_KILLS
(20) and KEEPER_KILLS (5); with asan and tsan 200, 30, 5 and 3.

Before the last line stands, per label, how many tests ran and how long they took, each by itself.
The last line says how many tests passed, failed and were skipped. The exit code is 0 only if some ran and
none failed; where the kernel can do everything (root, Linux 6.14 or newer) or CI=true, none may be skipped.
END
}

preset=release
case ${1-} in
  --preset) preset=${2:?--preset needs a name}; shift 2 ;;
  --preset=*) preset=${1#*=}; shift ;;
  -h | --help) usage; exit 0 ;;
esac
case $preset in
  release) build=build ;;
  dev | asan | tsan | fuzz) build=build-$preset ;;
  *) echo "tests/run.sh: there is no preset '$preset'" >&2; usage >&2; exit 2 ;;
esac

packages=("${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_RUN_PACKAGES[@]}" "${SLUICE_TEST_PACKAGES[@]}" "${SLUICE_VM_PACKAGES[@]}")
[[ $preset == fuzz ]] && packages+=("${SLUICE_FUZZ_PACKAGES[@]}")
command -v npm >/dev/null || packages+=("${SLUICE_NPM_PACKAGES[@]}")
install_packages "${packages[@]}"
# Before the tests, which have their time limits.
if [[ $preset != fuzz ]]; then
  bash tests/chart/helm.sh >/dev/null || echo "there is no Helm: the chart's tests will fail" >&2
  bash tests/tidy/fetch_buf.sh >/dev/null || echo "there is no buf: the protobufs are not linted" >&2
fi

export ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export LSAN_OPTIONS="suppressions=$PWD/tests/lsan.supp:print_suppressions=0${LSAN_OPTIONS:+:$LSAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp:second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"

# Sanitized processes start and run several times slower: what counts in kills is counted lower, all else stays.
if [[ $preset == asan || $preset == tsan ]]; then
  export SLUICE_KILL_ROUNDS=${SLUICE_KILL_ROUNDS:-200}
  export DAEMON_KILLS=${DAEMON_KILLS:-5} KEEPER_KILLS=${KEEPER_KILLS:-3} KILLS=${KILLS:-30}
fi

cmake --preset "$preset"

# Runs each fuzz target on its corpus for SECONDS_PER_TARGET; what it finds new is kept in the build directory.
run_fuzz_targets() {
  local targets target passed=0 failed=0
  mapfile -t targets < <(ninja -C "$build" -t targets all | sed -n 's/^\(fuzz_[a-z0-9_]*\): .*/\1/p' | sort -u)
  ((${#targets[@]})) || { echo "no fuzz targets (fuzz_*) in $build" >&2; exit 1; }
  ninja -C "$build" -j2 "${targets[@]}"
  for target in "${targets[@]}"; do
    local found=$build/corpus/$target given=tests/fuzz/corpus/${target#fuzz_} binary
    binary=$(find "$build" -type f -name "$target" -perm -u+x -print -quit)
    mkdir -p "$found"
    [[ -d $given ]] || given=$found
    echo "== $target"
    if "$binary" -max_total_time="${SECONDS_PER_TARGET:-60}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
      -artifact_prefix="$found/" "$found" "$given"; then
      ((++passed))
    else
      ((++failed))
    fi
  done
  echo "fuzz: ${#targets[@]}"
  echo "$passed passed, $failed failed, 0 skipped"
  ((failed == 0))
}

if [[ $preset == fuzz ]]; then
  run_fuzz_targets
  exit
fi

cmake --build --preset "$preset"

runner=(ctest --test-dir "$build" -j2 --output-on-failure)
# The sanitizers of Debian 12 can't lay out their shadow memory where newer kernels put things at random.
[[ $preset == asan || $preset == tsan ]] && runner=(setarch "$(uname -m)" -R "${runner[@]}")

report=$PWD/$build/Testing/junit.xml
mkdir -p "${report%/*}"
rm -f "$report"
status=0
"${runner[@]}" --output-junit "$report" "$@" || status=$?

allow_skips=yes
if [[ ${CI-} == true ]] || { ((EUID == 0)) && printf '6.14\n%s\n' "$(uname -r)" | sort -CV; }; then
  allow_skips=no
fi
ctest --test-dir "$build" --show-only=json-v1 |
  python3 tests/summary.py --junit "$report" --ctest-status "$status" --allow-skips "$allow_skips"
