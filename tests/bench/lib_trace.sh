# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set and use the rest
# Starts of programs: the image they run from, what they read of it (recorded), and the same once more (replayed).
# Sourced by scenarios.

# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh

readonly trace_packages=python3,python3-numpy,nodejs,perl,git,gcc,libc6-dev trace_dir=tests/bench/traces
readonly starts_recorded=5

# By a shell in the image, in an empty /tmp.
declare -rA trace_programs=(
  [python]="python3 -c 'import numpy; print(numpy.linalg.det(numpy.eye(3)))'"
  [node]="node -e 'const http = require(\"http\"), server = http.createServer(); require(\"crypto\").randomBytes(8);
    server.listen(0, () => server.close(() => console.log(\"served\")))'"
  [git]="git init -q project && cd project && echo hello >file && git add file &&
    git -c user.name=a -c user.email=a@example.com commit -q -m first && git log --oneline && git status --short &&
    perl -MPOSIX -MData::Dumper -MFile::Find -e 'find(sub { print Dumper(\$_) if -f && floor(-s) == 6 }, \".\")'"
  [gcc]="printf '#include <stdio.h>\\n#include <stdlib.h>\\nint main(void) { puts(\"hello\"); exit(0); }\\n' >hello.c &&
    gcc -O2 -o hello hello.c && ./hello"
)

trace_names() { printf '%s\n' "${!trace_programs[@]}" | sort; }
trace_file() { echo "$trace_dir/$1.trace"; }

# unpack_trace_image: the image's files, as $work/tree.
unpack_trace_image() {
  local tarball
  tarball=$(root_tarball "$trace_packages")
  mkdir "$work/tree"
  tar --numeric-owner --xattrs -C "$work/tree" -xpf "$tarball"
}

# package_versions DIR: of a Debian root file system, a line each: NAME VERSION.
# shellcheck disable=SC2016  # the fields are dpkg's
package_versions() { dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${Package} ${Version}\n' | LC_ALL=C sort; }

# packages_of_reads DIR: of those, the ones that the files of a trace on standard input belong to. A file may be known
# by its place before /usr was merged.
packages_of_reads() {
  awk '!/^#/ && NF >= 4 { sub(/^[0-9]+ [0-9]+ [0-9]+ /, ""); print "/" $0; if (sub(/^usr/, "")) print }' |
    sort -u >"$work/read-paths"
  (cd "$1/var/lib/dpkg/info" && grep -lxFf "$work/read-paths" -- *.list) | sed 's/\.list$//; s/:.*//' |
    LC_ALL=C sort -u | join - <(package_versions "$1")
}

# trace_fits NAME: fails if the image's packages are others than those the trace was recorded of.
trace_fits() {
  local differ
  [[ -s $(trace_file "$1") ]] ||
    fail "there is no trace '$1'; record it: bash tests/bench/run.sh start-replay record $1"
  differ=$(sed -n 's/^# package: //p' "$(trace_file "$1")" | LC_ALL=C sort |
    comm -23 - <(package_versions "$work/tree"))
  [[ -z $differ ]] ||
    fail "the trace '$1' was recorded of other packages than the image has (${differ//$'\n'/, }); record it again:" \
      "bash tests/bench/run.sh start-replay record $1"
}

# replay NAME DIR SINCE: prints the seconds from SINCE until the program would have ended, and its own seconds.
replay() { "$tools/replay_trace" "$(trace_file "$1")" "$2" "$work/tree" "$3"; }

# --- recording, on a mount of which all is there

# make_warm: the mount has no page in memory, the store's files are all there: what the kernel reads costs a copy.
make_warm() {
  sluice umount "$work/mnt/traced" >&2
  mount_image traced "$work/mnt/traced"
  drop_page_cache
  cat "$data_dir"/blobs/* >/dev/null
}

# record_of FILE [HEAD LINE...] -- COMMAND...: the trace of a command that runs beside the image's mount, which has the
# usual file systems mounted below it.
record_of() {
  local file=$1 root=$work/mnt/traced heads=()
  shift
  while [[ $1 != -- ]]; do heads+=(--head "$1"); shift; done
  shift
  make_warm
  # shellcheck disable=SC2016  # the inner shell's
  unshare --mount --propagation private bash -c 'root=$1; shift
    mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev" && mount -t tmpfs tmpfs "$root/tmp" &&
    exec "$@"' - "$root" \
    python3 -B tests/bench/record_trace.py --root "$root" --tracing "$work/tracing" "${heads[@]}" --output "$file" \
    -- "$@" || fail "'$*' can't be recorded"
}

same_reads() { cmp <(grep -v '^#' "$1" | cut -d' ' -f2-) <(grep -v '^#' "$2" | cut -d' ' -f2-) >&2; }

own_microseconds() { awk '!/^#/ { sum += $1 } END { print sum }' "$1"; }

# record_trace NAME: writes its file anew: the one of several starts that was disturbed least by what else the machine
# does. It is right if the kernel reads the same, in the same order, when it is replayed.
record_trace() {
  local recorded=$work/$1.trace start program=${trace_programs[$1]}
  for ((start = 1; start <= starts_recorded; ++start)); do
    record_of "$recorded.$start" -- /usr/bin/env -i HOME=/tmp LANG=C PATH=/usr/bin:/bin \
      /usr/sbin/chroot "$work/mnt/traced" sh -ec "cd /tmp; $program"
    echo "$(own_microseconds "$recorded.$start") $recorded.$start"
  done | sort -n | { read -r _ start; cp "$start" "$recorded"; cat >/dev/null; }
  record_of "$work/replayed.trace" -- "$tools/replay_trace" "$recorded" "$work/mnt/traced" "$work/tree"
  same_reads "$recorded" "$work/replayed.trace" ||
    fail "the replay of '$1' makes the kernel read otherwise than the program"
  mkdir -p "$trace_dir"
  {
    echo "# made by: bash tests/bench/run.sh start-replay record $1"
    sed "1s/^/# command: /; 2,\$s/^ */#   /" <<<"$program"
    echo "# image: Debian bookworm, debootstrap --variant=minbase --include=$trace_packages"
    packages_of_reads "$work/tree" <"$recorded" | sed 's/^/# package: /'
    echo "# microseconds since the read before, offset, length, path"
    cat "$recorded"
  } >"$(trace_file "$1")"
  note "$1: $(grep -vc '^#' "$(trace_file "$1")") lines, $(own_microseconds "$recorded") us of its own"
}

blob_is_whole() {
  sluice --output json blob stat "$(data_blob_of traced)" | jq -e '.present_bytes == .size_bytes' >/dev/null
}

# mount_whole: a registry and a node that has all of the image that $work/tree makes; mounted at $work/mnt/traced.
mount_whole() {
  start_registry
  start_node
  push_tree "$work/tree" traced
  mount_image traced "$work/mnt/traced"
  sluice prefetch submit "$registry/traced:1" >&2
  blob_is_whole || fail "the image is not whole"
}

# can_record: whether the kernel tells what it reads; mounts what it tells by.
can_record() { mkdir "$work/tracing" && mount -t tracefs nodev "$work/tracing" && [[ -d $work/tracing/events/erofs ]]; }

# record_traces NAME...: on a node of their own.
record_traces() {
  local name
  can_record || fail "this kernel does not tell what it reads: it has no tracefs, or no events of EROFS"
  mount_whole
  for name in "$@"; do record_trace "$name"; done
  sluice umount "$work/mnt/traced" >&2
}
