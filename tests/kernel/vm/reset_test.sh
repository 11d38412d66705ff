#!/usr/bin/env bash
# A machine that is reset while it boots is started anew, and loudly; one whose kernel names a reason is not. QEMU is
# wrapped: its first start ends as such a machine did, what follows is the real one.
set -euo pipefail
vm_dir=$(cd "$(dirname "$0")" && pwd)
real=$(command -v qemu-system-x86_64) || real=/bin/false # run.sh then says what is missing

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" sluice-reset-XXXXXXXX)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "reset_test.sh: $*" >&2
  cat "$work/said" >&2
  exit 1
}

cat >"$work/qemu-system-x86_64" <<END
#!/usr/bin/env bash
if [[ -e $work/reset ]]; then exec $real "\$@"; fi
touch $work/reset
while ((\$#)); do
  case \$1 in
    -append) parameters=\$2; shift ;;
    file:*/console) console=\${1#file:} ;;
  esac
  shift
done
printf '%s\n' "Kernel command line: \$parameters" "\$LAST_WORDS" >"\$console"
END
chmod +x "$work/qemu-system-x86_64"

# boot LAST_WORDS: runs a command on a machine whose first start ends with these words; sets status.
boot() {
  rm -f "$work/reset"
  status=0
  # The choice of accelerator would use up the first start.
  LAST_WORDS=$1 SLUICE_VM_ACCEL=${SLUICE_VM_ACCEL:-tcg} PATH="$work:$PATH" \
    bash "$vm_dir/run.sh" --timeout 300 -- bash -c 'echo booted; exit 7' >"$work/said" 2>&1 || status=$?
}

boot 'sched_clock: Marking stable'
((status != 77)) || { cat "$work/said" >&2; exit 77; }
((status == 7)) || fail "a machine that was reset in its boot ended with $status, not with its command's 7"
grep -q 'reset while it booted.*(1 of 2)' "$work/said" || fail "the reset is not named"
grep -qx booted "$work/said" || fail "its command did not run"

boot 'Kernel panic - not syncing: VFS: Unable to mount root fs'
((status == 125)) || fail "a machine that panicked in its boot ended with $status, not with 125"
grep -q 'Unable to mount root fs' "$work/said" || fail "the panic is not shown"
if grep -q 'reset while it booted' "$work/said"; then fail "a panic is taken for a reset"; fi
