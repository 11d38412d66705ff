#!/usr/bin/env bash
# What the kernel reads of a mount for a program is recorded, faults of mapped files among it. A replay makes the kernel
# read the same, in the same order; one that left something out, or found other bytes, would be seen.
# shellcheck disable=SC2154  # lib.sh and lib_trace.sh set the rest
source "$(dirname "$0")/lib.sh"
cd "$repository_root"
# shellcheck source=tests/bench/lib_trace.sh
source tests/bench/lib_trace.sh

# shellcheck disable=SC2034  # lib_trace.sh reads it
readonly tools=${SLUICE_BIN%/bin}/tests/bench
mount=$work/mnt/traced

can_record || { note "skipped: this kernel does not tell what it reads"; exit 77; }
mkdir -p "$work"/tree/{proc,dev,tmp,usr}
head -c 3000000 /dev/urandom >"$work/tree/usr/mapped"
head -c 5000 /dev/urandom >"$work/tree/usr/with blanks"
head -c 3000000 /dev/urandom >"$work/tree/usr/untouched"
mount_whole

# Faults at random places, a scan that the kernel reads ahead of, and a file that ends within a page.
cat >"$work/program.py" <<'END'
import mmap, os, random, sys, time
random.seed(1)
with open(sys.argv[1] + "/usr/mapped", "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    total = sum(mapped[random.randrange(len(mapped))] for _ in range(20))
    time.sleep(0.02)
    while file.read(10000):
        pass
with open(sys.argv[1] + "/usr/with blanks", "rb") as file:
    file.read()
os.stat(sys.argv[1] + "/usr/untouched")
END

note "recorded"
recorded=$work/recorded.trace
record_of "$recorded" 'made for: a test' -- python3 -B "$work/program.py" "$mount"
[[ $(head -n 1 "$recorded") == '# made for: a test' ]] || fail "the trace does not begin with its head"
reads_of() { grep -v '^#' "$recorded" | grep " $1\$" | cut -d' ' -f2-3; }
(($(reads_of usr/mapped | wc -l) > 20)) || fail "the faults are not in the trace: $(<"$recorded")"
[[ $(reads_of usr/mapped | awk '{ sum += $2 } END { print sum }') == 3000000 ]] ||
  fail "not each byte is read once: $(<"$recorded")"
[[ $(reads_of 'usr/with blanks') == '0 5000' ]] || fail "not the file's bytes: $(reads_of 'usr/with blanks')"
[[ -z $(reads_of usr/untouched) ]] || fail "what nobody read is in the trace"
(($(own_microseconds "$recorded") >= 20000)) || fail "the program's own time is not in the trace"

note "replayed"
record_of "$work/replayed.trace" -- "$tools/replay_trace" "$recorded" "$mount" "$work/tree"
same_reads "$recorded" "$work/replayed.trace" || fail "a replay makes the kernel read otherwise"

note "what is left out is seen"
sed '/^#/d' "$recorded" | sed 3d >"$work/shorter"
record_of "$work/replayed.trace" -- "$tools/replay_trace" "$work/shorter" "$mount" "$work/tree"
if same_reads "$recorded" "$work/replayed.trace"; then fail "a read that is left out is not seen"; fi

note "other bytes are seen"
cp -r "$work/tree/usr" "$work/other"
mkdir "$work/like"
mv "$work/other" "$work/like/usr"
printf x | dd of="$work/like/usr/with blanks" bs=1 seek=4999 conv=notrunc status=none
printf y | dd of="$work/tree/usr/with blanks" bs=1 seek=4999 conv=notrunc status=none
expect_failure 1 'wrong bytes: 5000 of usr/with blanks at 0' \
  "$tools/replay_trace" "$recorded" "$work/tree" "$work/like"

note "a start that fails, and one that reads nothing, are no traces"
expect_failure 1 'the program failed: exit status 3' python3 -B tests/bench/record_trace.py --root "$mount" \
  --tracing "$work/tracing" --output "$work/none" -- sh -c 'exit 3'
expect_failure 1 'read nothing' python3 -B tests/bench/record_trace.py --root "$mount" \
  --tracing "$work/tracing" --output "$work/none" -- true
expect_failure 1 'no events of EROFS' python3 -B tests/bench/record_trace.py --root "$mount" \
  --tracing "$work/mnt" --output "$work/none" -- true
[[ ! -e $work/none ]] || fail "a trace of nothing was written"
[[ -z $(find "$work/tracing/instances" -mindepth 1 -maxdepth 1 -name 'sluice-*') ]] || fail "a tracer is left"
