# shellcheck shell=bash
# What the scripts that build and run the test machine share. Sourced.

# shellcheck disable=SC2034  # for those who source this file
readonly vm_cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice

# Where root's programs lie: a path without them is no reason to skip.
PATH=$PATH:/usr/sbin:/sbin

# skip REASON: ends the script as a test that can't run here; where all must run, as one that failed.
readonly skip_status=77
skip() {
  echo "SKIPPED: $*" >&2
  [[ ${CI-} != true ]] || { echo "CI=true: nothing may be skipped" >&2; exit 1; }
  exit "$skip_status"
}

# require COMMAND PACKAGE...: skips unless each command is there.
require() {
  local missing=()
  for (( ; $# >= 2; )); do
    command -v "$1" >/dev/null || missing+=("$2")
    shift 2
  done
  ((${#missing[@]} == 0)) || skip "programs are missing: apt-get install ${missing[*]}"
}
