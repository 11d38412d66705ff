# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# The cache's core loop by itself, sources, store and verifier being fakes: reads of absent and of present chunks per
# second, and what one fetch costs that ends and lets the next start, with few and with 1,000 blobs waiting. Beside the
# commit before the core was made for many sources, built with the same flags and measured in turns.

readonly commit_before=ecd7465 misses=400000 hits=2000000 waiting_few=10 waiting_many=1000

# build_loop TREE OUTPUT [FLAG...]: core_loop.cc with the core of that tree.
build_loop() {
  local tree=$1 output=$2 objects=$2.objects
  mkdir "$objects"
  printf '%s\0' "$tree"/node/*.cc tests/bench/core_loop.cc |
    xargs -0 -P 2 -I{} sh -c 'g++ -std=c++20 -O2 "$@" -c {} -o "$0/$(basename {}).o"' \
      "$objects" -I "$tree" "${@:3}" >&2 || return
  # shellcheck disable=SC2046  # flags, a word each
  g++ "$objects"/*.o -o "$output" $(pkg-config --libs absl_status absl_statusor absl_strings absl_hash \
    absl_raw_hash_set) >&2
}

build_before() {
  git cat-file -e "$commit_before^{commit}" 2>/dev/null || return
  mkdir "$work/before"
  git archive "$commit_before" node | tar -x -C "$work/before" || return
  build_loop "$work/before" "$work/loop_before" -DSLUICE_BENCH_BEFORE
}

# Of what=(misses|hits|settle COUNT).
measure_now() { "$work/loop" "${what[@]}" >"$work/now"; }
measure_before() { if [[ -x $work/loop_before ]]; then "$work/loop_before" "${what[@]}" >"$work/then"; fi; }

measure() {
  local pair each
  build_loop . "$work/loop" || fail "core_loop.cc can't be built"
  build_before || rm -f "$work/loop_before"
  : >"$work/then"
  for ((pair = 1; pair <= pairs; pair++)); do
    for each in "misses $misses" "hits $hits" "settle $waiting_few" "settle $waiting_many"; do
      read -ra what <<<"$each"
      in_turns "$pair" measure_now measure_before
      paste -d' ' "$work/now" "$work/then" >>"$work/${each// /-}"
    done
  done
  ours() { awk '{ print $1 }' "$work/$1"; }
  ours "misses-$misses" | report misses_per_second 1/s
  ours "hits-$hits" | report hits_per_second 1/s
  ours "settle-$waiting_few" | report settle_ns ns --case "$waiting_few"
  ours "settle-$waiting_many" | report settle_ns ns --case "$waiting_many"
  paste -d' ' <(ours "settle-$waiting_many") <(ours "settle-$waiting_few") |
    report settle_ratio ratio --names "with_$waiting_many,with_$waiting_few"
  if [[ ! -x $work/loop_before ]]; then
    printf '{"bench":"core-loop","metric":"rate_over_before","error":"this clone has no commit %s"}\n' "$commit_before"
    exit 1
  fi
  report rate_over_before ratio --case misses --names now,before <"$work/misses-$misses"
  report rate_over_before ratio --case hits --names now,before <"$work/hits-$hits"
}
