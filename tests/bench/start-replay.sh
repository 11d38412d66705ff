# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and lib_*.sh set and use the rest
# Starts of programs, replayed from recorded traces (traces/) on an empty node that has just mounted their image, from a
# registry behind 100 Mbit/s and 36 ms: from when the mount is asked for until the program would have ended. Beside it
# containerd, which pulls and unpacks the ordinary image over the same link and then runs the same trace; what the link
# and the program make necessary; the same with nothing fetched ahead (case: off), as a control; and the same program
# from the same files by nbdkit and by httpdirfs (OTHERS_RUNS times: they take minutes). With BEFORE=1 first starts are also set beside those of the commit
# before there was any of it, which is built once. Arguments: the cases, as python/first; default: all. "record NAME..."
# records traces instead (default: all).

# shellcheck source=tests/e2e/lib_containerd.sh
source tests/e2e/lib_containerd.sh
# shellcheck source=tests/bench/lib_start.sh
source tests/bench/lib_start.sh
# shellcheck source=tests/bench/lib_by_file.sh
source tests/bench/lib_by_file.sh

readonly before_commit=ecd7465
readonly link_bytes_per_second=12500000 round_trip_seconds=0.036

start_first() {
  start_empty adaptive
  timed_start
  ours=$took ours_fetched=$fetched
}

start_off() {
  start_empty off
  timed_start
  off=$took
}

# build_before: that commit's programs, kept in the user's cache folder; sets before_bin.
build_before() {
  local tree=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/before-$before_commit
  before_bin=$tree/build/bin
  install_packages libarchive-dev erofs-utils
  [[ -x $before_bin/sluiced && -x $before_bin/sluice ]] && return
  git cat-file -e "$before_commit^{commit}" 2>/dev/null || fail "the commit $before_commit is not in this clone"
  rm -rf "$tree"
  mkdir -p "$tree"
  git archive "$before_commit" | tar -x -C "$tree"
  (cd "$tree" && cmake --preset release && cmake --build --preset release --target sluiced sluice sluice-keeper) >&2 ||
    fail "the commit $before_commit can't be built"
}

# start_before: an image that is not compressed, as that commit has no other.
start_before() {
  local SLUICE_BIN=$before_bin both started
  [[ -z $node_pid ]] || stop_node
  rm -rf "$data_dir"
  start_node
  mount=$work/mnt/before
  mkdir -p "$mount"
  drop_page_cache
  sluice --help >"$work/asker.log"
  started=$EPOCHREALTIME
  mount_image plain "$mount"
  both=$(replay "$trace" "$mount" "$started") || fail "the replay of '$trace' failed at $before_commit"
  before=${both% *}
  sluice umount "$mount" >&2
  stop_node
}

# unpacked: where containerd has put the files of the only image that it has, which is one layer.
unpacked() {
  find "$work/containerd/io.containerd.snapshotter.v1.native/snapshots" -mindepth 1 -maxdepth 1 -name '[0-9]*'
}

start_pulled() {
  local started both
  forget_images
  drop_page_cache
  ctr --help >"$work/asker.log"
  started=$EPOCHREALTIME
  pull "$registry/ordinary:1"
  both=$(replay "$trace" "$(unpacked)" "$started") || fail "the replay of '$trace' failed"
  pulled=${both% *}
}

origin_counts() { echo "$(metric sluice_origin_blob_bytes_total) $(metric sluice_origin_plain_bytes_total)"; }
origin_is_quiet() {
  local before
  before=$(origin_counts)
  sleep 1
  [[ $(origin_counts) == "$before" ]]
}

# measure_touched: what crosses the wire for the chunks that the trace touches, and nothing else; sets touched_wire,
# touched_plain, own and bound.
measure_touched() {
  local before both
  start_empty off
  mount_image lazy "$mount"
  wait_until origin_is_quiet || fail "the mount does not end"
  before=$(origin_counts)
  both=$(replay "$trace" "$mount" "$EPOCHREALTIME") || fail "the replay of '$trace' failed"
  wait_until origin_is_quiet || fail "the node fetches on"
  own=${both#* }
  read -r touched_wire touched_plain < <(awk '{ print $3 - $1, $4 - $2 }' <<<"$before $(origin_counts)")
  bound=$(awk -v bytes="$touched_wire" -v rate="$link_bytes_per_second" -v trip="$round_trip_seconds" -v own="$own" \
    'BEGIN { printf "%.6f", bytes / rate + 2 * trip + own }')
  sluice umount "$mount" >&2
  note "$trace: $touched_wire bytes on the wire of $touched_plain touched; $own s of its own; bound $bound s"
}

ours_and_off() {
  if [[ $kind == first ]]; then start_first; else start_with_profile; fi
  note_busy "$series-busy"
  start_off
  note_busy "$series-off-busy"
}

# report_case CASE SERIES [figure.py options]
report_case() {
  local also
  also=touched_of_image=$(awk -v n="$touched_plain" -v all="$image_bytes" 'BEGIN { print n / all }')
  also+=,$(most_busy "$2-busy")
  report time_over_pull ratio --case "$1" --pairs-min "$runs" --also "$also" \
    --names ours_seconds,pull_seconds <"$2-pull"
  report time_over_bound ratio --case "$1" --pairs-min "$runs" --also "$also" \
    --names ours_seconds,bound_seconds <"$2-bound"
}

measure_case() {
  local trace=${1%/*} kind=${1#*/} series=$work/${1/\//-} run mount own bound touched_wire touched_plain
  local took fetched ours ours_fetched off pulled before tool
  trace_fits "$trace"
  measure_touched
  for ((run = 0; run < runs; ++run)); do
    in_turns "$run" ours_and_off start_pulled
    for tool in nbdkit httpdirfs; do
      ((run < others_runs)) || break
      start_by $tool
      echo "$took $ours" >>"$series-$tool"
      note "$1: by $tool $took s"
    done
    if [[ -n ${BEFORE-} && $kind == first ]]; then
      start_before
      echo "$ours $before" >>"$series-before"
      note "$1: $before s at $before_commit"
    fi
    note "$1: ours $ours s and $ours_fetched bytes from the registry, with nothing ahead $off s, pulled $pulled s"
    echo "$ours $pulled" >>"$series-pull"
    echo "$ours $bound" >>"$series-bound"
    echo "$ours $off" >>"$series-over-off"
    echo "$off $pulled" >>"$series-off-pull"
    echo "$off $bound" >>"$series-off-bound"
  done
  report_case "$1" "$series"
  report time_over_off ratio --case "$1" --pairs-min "$runs" \
    --names ours_seconds,off_seconds <"$series-over-off"
  for tool in nbdkit httpdirfs; do
    ((others_runs)) || break
    report "${tool}_over_ours" ratio --case "$1" --pairs-min "$others_runs" --names "${tool}_seconds,ours_seconds" \
      <"$series-$tool"
  done
  if [[ -s $series-before ]]; then
    report first_over_before ratio --case "$1" --pairs-min "$runs" --names ours_seconds,before_seconds <"$series-before"
  fi
  [[ $kind != first ]] || report_case "$trace/off" "$series-off"
}

default_cases() {
  trace_names | while read -r trace; do
    echo "$trace/first"
    echo "$trace/profile"
  done
}

check_case() {
  [[ -v trace_programs[${1%/*}] && $1 == */@(first|profile) ]] || fail "there is no case '$1'"
}

measure() {
  local -x START_PROFILES=on
  local cases=("$@") each layer image_bytes
  runs=${RUNS:-5} others_runs=${OTHERS_RUNS:-1}
  if [[ ${1-} == record ]]; then
    cases=("${@:2}")
    ((${#cases[@]})) || mapfile -t cases < <(trace_names)
    for each in "${cases[@]}"; do [[ -v trace_programs[$each] ]] || fail "there is no trace '$each'"; done
    unpack_trace_image
    record_traces "${cases[@]}"
    return
  fi
  ((${#cases[@]})) || mapfile -t cases < <(default_cases)
  for each in "${cases[@]}"; do check_case "$each"; done
  install_packages containerd "${by_file_packages[@]}"
  if [[ -n ${BEFORE-} ]]; then build_before; fi
  unpack_trace_image
  layer=$(root_layer "$trace_packages")
  link_up 100mbit 18
  registry_runner=(ip netns exec "$link_netns")
  start_registry "$link_far:5000"
  at_registry "$(declare -f upload put_manifest push_ordinary); push_ordinary ordinary '$layer'"
  at_registry "'$SLUICE_BIN/sluice' image push --plain-http $registry/ordinary:1 $registry/lazy:1" >&2
  if [[ -n ${BEFORE-} ]]; then
    at_registry "'$SLUICE_BIN/sluice' image push --compression none --plain-http $work/tree $registry/plain:1" >&2
  fi
  serve_image_file
  image_bytes=$(data_size_of lazy)
  start_containerd
  for each in "${cases[@]}"; do measure_case "$each"; done
}
