#!/usr/bin/env bash
# Runs a command as root on the test machine: QEMU with the kernel of build_kernel.sh, which can do what the host's
# kernel may lack. The machine sees the host's files, and writes only to a disk that goes when it ends.
set -euo pipefail
vm_dir=$(cd "$(dirname "$0")" && pwd)
source "$vm_dir/lib_vm.sh"

usage() {
  cat <<'END'
usage: run.sh [--memory MB] [--disk GB] [--timeout S] [--env NAME[=VALUE]] [--show PATH] [--keep-console FILE] -- COMMAND...

  --memory MB          the machine's memory (default 2048)
  --disk GB            its disk, at /var/tmp there; takes room as it fills (default 16)
  --timeout S          the machine is ended after so many seconds (default 900)
  --env NAME[=VALUE]   hand on one more variable of the environment
  --show PATH          a path below /tmp, /var/tmp or /run of the host that the command needs; the current directory,
                       the repository, the build and the command's own arguments are seen without it
  --keep-console FILE  where what the kernel says is kept

COMMAND runs in the current directory, with no standard input; its output and its exit code come back. Exit code 125:
the machine failed, by an error of its kernel or otherwise; 124: it took too long; 77: this host can't run it.
SLUICE_VM_ACCEL=kvm or tcg chooses how the processors are made; without it KVM is used where it works.
END
}

memory=2048 disk=16 timeout=900 console=
show=() names=()
while (($#)); do
  case $1 in
    --memory) memory=${2:?}; shift 2 ;;
    --disk) disk=${2:?}; shift 2 ;;
    --timeout) timeout=${2:?}; shift 2 ;;
    --env) names+=("${2:?}"); shift 2 ;;
    --show) show+=("$(realpath -e -- "${2:?}")"); shift 2 ;;
    --keep-console) console=${2:?}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
(($#)) || { usage >&2; exit 2; }

require qemu-system-x86_64 qemu-system-x86 mkfs.ext4 e2fsprogs cpio cpio busybox busybox-static
! ldd "$(command -v busybox)" >/dev/null 2>&1 || skip "busybox needs libraries: apt-get install busybox-static"
((EUID == 0)) || skip "the machine reads the host's files as root: run it as root"
status=0
kernel=$(bash "$vm_dir/build_kernel.sh" --path) || status=$?
((status != skip_status)) || exit "$status"
((status == 0)) || skip "there is no kernel yet: bash $vm_dir/build_kernel.sh"
repository_root=$(cd "$vm_dir/../../.." && pwd)
SLUICE_BIN=$(realpath -m -- "${SLUICE_BIN:-$repository_root/build/bin}")

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" sluice-vm-XXXXXXXX)
machine_pid=
tail_pids=()
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  [[ -z $machine_pid ]] || { kill "$machine_pid" 2>/dev/null; wait "$machine_pid"; } || true
  ((${#tail_pids[@]} == 0)) || kill "${tail_pids[@]}" 2>/dev/null || true
  [[ -z $console || ! -e $work/console ]] || cp "$work/console" "$console" || true
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- what the machine is to do

# What the scripts of tests/e2e and the programs under test read.
forwarded=(
  BACKEND CI DAEMON_KILLS FILL KEEPER_KILLS KILLS LANG LC_ALL LOG_LEVEL READ_DEADLINE SLUICE_KILL_ROUNDS
  SLUICE_BIN ASAN_OPTIONS TSAN_OPTIONS UBSAN_OPTIONS WAIT_SECONDS_MAX
)
# Emulated processors are many times slower, and what is waited for comes later.
WAIT_SECONDS_MAX=${WAIT_SECONDS_MAX:-300}

# write_command COMMAND...: the script that the machine runs.
write_command() {
  local name
  for name in "${forwarded[@]}"; do
    [[ -z ${!name+set} ]] || printf 'export %s=%q\n' "$name" "${!name}"
  done
  for name in ${names[@]+"${names[@]}"}; do
    [[ $name == *=* ]] || name=$name=${!name-}
    printf 'export %s=%q\n' "${name%%=*}" "${name#*=}"
  done
  # Debian's own programs: others (a Python under a wrapper in shell) may take seconds to start here.
  printf 'export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp TMPDIR=/var/tmp\n'
  printf 'export USER=root SLUICE_IN_VM=1\ncd %q\nexec' "$PWD"
  printf ' %q' "$@"
  echo
}

# write_initramfs COMMAND...: first program, command and paths to show, in a directory that is packed as it is.
write_initramfs() {
  local root=$work/initramfs argument
  mkdir -p "$root/bin"
  cp "$(command -v busybox)" "$root/bin/busybox"
  ln -sf busybox "$root/bin/sh"
  cp "$vm_dir/init.sh" "$root/init"
  chmod +x "$root/init"
  write_command "$@" >"$root/command"
  {
    printf '%s\n' "$PWD" "$repository_root" "$(dirname "$SLUICE_BIN")" ${show[@]+"${show[@]}"}
    for argument in "$@"; do
      if [[ $argument == /* && -e $argument ]]; then printf '%s\n' "$argument"; fi
    done
  } | LC_ALL=C sort -u >"$root/show"  # what holds others comes first, and they with it
  (cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initramfs.cpio"
}

# --- the machine

# start_machine ACCELERATOR SECONDS: sets machine_pid; when it ends, the command's exit code is in $work/status.
start_machine() {
  local accelerator=$1 processor=max
  [[ $accelerator == kvm ]] && processor=host
  [[ $accelerator == tcg ]] && accelerator=tcg,thread=multi
  rm -f "$work/disk" "$work/console"
  : >"$work/out"
  : >"$work/err"
  : >"$work/status"
  truncate -s "${disk}G" "$work/disk"
  mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$work/disk"
  local parameters=(
    console=ttyS0 loglevel=7 oops=panic panic=-1 mitigations=off nokaslr random.trust_cpu=on
    # Code at the same address each time is translated once, not for every process that starts: that is most of what
    # short programs take under emulation.
    norandmaps
    # Nobody else keeps the time, and what an overloaded host takes from the machine is no fault of its kernel.
    clocksource=tsc tsc=reliable rcupdate.rcu_cpu_stall_suppress=1
  )
  # shellcheck disable=SC2054  # the commas are QEMU's
  local arguments=(
    -nodefaults -no-user-config -display none -no-reboot
    -machine pc -accel "$accelerator" -cpu "$processor" -smp 2 -m "$memory"
    -kernel "$kernel" -initrd "$work/initramfs.cpio" -append "${parameters[*]}"
    -serial "file:$work/console"
    # The host's whole tree, whatever is mounted in it; inode numbers of several devices are told apart.
    -fsdev "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
    -device virtio-9p-pci,fsdev=host,mount_tag=host
    # Nothing on it outlives the machine, so nothing need reach the host's disk.
    -drive "file=$work/disk,if=none,id=disk,format=raw,cache=unsafe,discard=unmap"
    -device virtio-blk-pci,drive=disk
    -device virtio-rng-pci
    # Written before the machine goes on (ioeventfd), and to files, which never make it wait: so all that was said is
    # there when it ends.
    -device virtio-serial-pci,ioeventfd=off
    -chardev "file,id=out,path=$work/out" -device virtserialport,chardev=out,name=out
    -chardev "file,id=err,path=$work/err" -device virtserialport,chardev=err,name=err
    -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=status
  )
  # A machine whose script is killed goes with it.
  setpriv --pdeathsig TERM timeout -k 5 "$2" qemu-system-x86_64 "${arguments[@]}" </dev/null 2>"$work/qemu.log" &
  machine_pid=$!
}

# end_of_machine: waits for it; returns 124 if its time was up.
end_of_machine() {
  local status=0
  wait "$machine_pid" 2>/dev/null || status=$?
  machine_pid=
  return "$status"
}

# succeeded: whether the machine ran its command to an exit code of 0.
succeeded() { [[ $(<"$work/status") == 0 ]]; }

# Where there is no KVM, or one under which nothing boots (some clouds' nested one), processors are emulated. Tried once
# per boot of the host and kernel.
choose_accelerator() {
  accelerator=${SLUICE_VM_ACCEL-}
  [[ -z $accelerator ]] || return 0
  accelerator=tcg
  [[ -r /dev/kvm && -w /dev/kvm ]] || return 0
  local known
  known=$(dirname "$kernel")/accelerator-$(</proc/sys/kernel/random/boot_id)
  if [[ ! -s $known ]]; then
    echo "trying KVM" >&2
    write_initramfs /bin/true
    start_machine kvm 20
    if end_of_machine && succeeded; then accelerator=kvm; fi
    [[ $accelerator == kvm ]] || echo "nothing boots under KVM here: emulating instead, many times slower" >&2
    echo "$accelerator" >"$known.$$"
    mv "$known.$$" "$known"
  fi
  accelerator=$(<"$known")
}

# machine_failed WHAT STATUS: says what the kernel said last, and ends the script.
machine_failed() {
  {
    echo "run.sh: $1; the end of its console:"
    tail -n 40 "$work/console" || true
    cat "$work/qemu.log"
  } >&2
  exit "$2"
}

# run_machine: starts it, hands on what its command says, and waits for its end.
run_machine() {
  start_machine "$accelerator" "$timeout"
  tail -q -n +1 -s 0.1 -f --pid="$machine_pid" "$work/out" &
  tail_pids=($!)
  tail -q -n +1 -s 0.1 -f --pid="$machine_pid" "$work/err" >&2 &
  tail_pids+=($!)
  status=0
  end_of_machine || status=$?
  wait "${tail_pids[@]}"
  tail_pids=()
}

# reset_in_boot: whether the machine went before its first program ran, and its kernel named no reason: an emulated
# processor was reset while the kernel patched its own code. Nothing of the command's has run by then.
reset_in_boot() {
  ((status != 124 && status != 137)) && [[ ! -s $work/status ]] &&
    ! grep -q -E 'Run /init|Kernel panic|BUG: |Oops' "$work/console"  # its parameters, which name panics too, are there
}

choose_accelerator
write_initramfs "$@"
run_machine
for again in 1 2; do
  reset_in_boot || break
  echo "run.sh: the machine was reset while it booted, before its command; starting it anew ($again of 2)" >&2
  run_machine
done

((status != 124 && status != 137)) || machine_failed "the machine did not end within $timeout s" 124
((status == 0)) || machine_failed "QEMU failed" 125
status=$(<"$work/status")
[[ $status =~ ^[0-9]+$ ]] || machine_failed "the machine ended before its command did" 125
# A warning of the kernel does not end the machine, but whoever reads the test should know.
grep -A 20 -E 'WARNING: |BUG: |blocked for more than' "$work/console" >&2 || true
exit "$status"
