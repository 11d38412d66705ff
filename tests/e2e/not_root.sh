#!/usr/bin/env bash
# Without root there is no door: `auto` runs without one and says so, a named backend is refused with its remedy, and
# mount and doctor tell what is missing.
source "$(dirname "$0")/lib.sh"

as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
chmod 755 "$work"
mkdir "$work/own"
chown 65534:65534 "$work/own"
data_dir=$work/own/data
run_dir=$work/own/run
# The binaries may lie where nobody may go.
cp "$SLUICE_BIN/sluiced" "$SLUICE_BIN/sluice" "$work/"
launch_node() {
  setpriv --reuid=65534 --regid=65534 --clear-groups setsid "$work/sluiced" --config "$config" >>"$node_log" 2>&1 &
  node_pid=$!
  disown
}

note "a named backend is refused"
BACKEND=fanotify write_config
chmod 644 "$config"
expect_failure $exit_failed 'CAP_SYS_ADMIN' as_nobody "$work/sluiced" --config "$config"

note "auto runs without a door"
BACKEND=auto write_config
restart_node
[[ $(sluice --output json status | jq -r '.backend') == off ]] || fail "a backend without root: $(sluice status)"
sluice status | grep -q 'CAP_SYS_ADMIN' || fail "status does not say why: $(sluice status)"
mkdir -p "$work/mnt/app"
expect_failure $exit_refused 'sluice doctor' sluice mount "127.0.0.1:5000/app:1" "$work/mnt/app"
expect_failure $exit_failed 'CAP_SYS_ADMIN' as_nobody "$work/sluice" doctor --data-dir "$work/own"
