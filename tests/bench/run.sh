#!/usr/bin/env bash
# Runs one benchmark: a scenario of this folder, measured beside what the field uses, both in the same run.
set -euo pipefail
cd "$(dirname "$0")/../.."

scenarios() { find tests/bench -name '*.sh' ! -name run.sh ! -name 'lib_*' -printf '%f\n' | sed 's/\.sh$//' | sort; }

usage() {
  cat <<'END'
usage: bash tests/bench/run.sh NAME [--backend fanotify|fuse] [arguments] | --list

Builds the release preset, installs what it compares with, measures A and B in turns and prints a JSON line per
figure: {"bench":…,"metric":…,"value":<median>,"unit":…,"n":<pairs>,"p25":…,"p75":…}. A figure that could not be
taken is a line with "error", and the exit code is not 0. PAIRS sets how often each is measured (default 15), RUNS how
often a crowd is (default 5); a crowd's run while the machine is busier than BUSY_MAX (default 0.85) is made again.
--backend is the kernel's door that the node uses (default: fanotify).
END
}

case ${1-} in
  --list) scenarios; exit ;;
  -h | --help | '') usage; exit ;;
esac
bench=$1
shift
arguments=()
while (($#)); do
  case $1 in
    --backend) export BACKEND=${2:?--backend needs a name}; shift ;;
    --backend=*) export BACKEND=${1#*=} ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
[[ -f tests/bench/$bench.sh && $bench != run && $bench != lib_* ]] || {
  printf '{"bench":"%s","error":"there is no such benchmark"}\n' "${bench//[^a-z0-9-]/}"
  echo "benchmarks: $(scenarios | paste -sd' ')" >&2
  exit 2
}
# shellcheck disable=SC2034  # read by the scenarios
readonly pairs=${PAIRS:-15} tools=$PWD/build/tests/bench

# Each start is an image's first, and reads of whole blobs are not watched, unless a scenario says otherwise.
export START_PROFILES=off

# On the way out: a run that failed still leaves a line for whoever reads the figures.
finish() {
  local status=$?
  ((status == 0)) || printf '{"bench":"%s","error":"%s"}\n' "$bench" "${failure:-exit status $status, see standard error}"
  if declare -F cleanup >/dev/null; then cleanup "$status"; fi
}
trap finish EXIT

source tests/packages.sh
install_packages "${SLUICE_BUILD_PACKAGES[@]}" "${SLUICE_RUN_PACKAGES[@]}"
cmake --preset release >&2
cmake --build --preset release --target sluiced sluice sluice-keeper bench_tools delay_relay >&2
source tests/e2e/lib.sh
trap finish EXIT

# report METRIC UNIT [figure.py options]: reads measurements from standard input and prints the JSON line.
report() { python3 tests/bench/figure.py --bench "$bench" --metric "$1" --unit "$2" "${@:3}"; }

# in_turns PAIR FIRST SECOND: runs both functions, in an order that changes with each pair.
in_turns() {
  if (($1 % 2)); then "$2"; "$3"; else "$3"; "$2"; fi
}

# seconds_of COMMAND...: wall-clock seconds of a command, its output dropped.
seconds_of() {
  local started=$EPOCHREALTIME
  "$@" >"$work/command.log" 2>&1 || fail "'$*' failed: $(tail -n 1 "$work/command.log")"
  awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.6f\n", to - from }'
}

# cpu_seconds PID...: that the processes have used so far.
cpu_seconds() {
  local pid
  for pid in "$@"; do sed 's/.*) //' "/proc/$pid/stat"; done |
    awk -v tick="$(getconf CLK_TCK)" '{ sum += $12 + $13 } END { printf "%.2f\n", sum / tick }'
}

difference() { awk -v a="$1" -v b="$2" 'BEGIN { print a - b }'; }

# shellcheck source=/dev/null
source "tests/bench/$bench.sh"
measure "${arguments[@]}"
