# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# One batch of the store over 400 dirty blobs, a chunk of 256 KiB each, until all of them are claimed; beside a bare
# program that calls fdatasync once for each of 400 such files, on 8 threads.

readonly blobs=400 threads=8

measure() {
  mkdir "$work/bare"
  "$tools/sync_many" "$data_dir" "$work/bare" "$blobs" "$threads" "$pairs" >"$work/measurements" 2>"$work/command.log" ||
    fail "sync_many: $(tail -n 1 "$work/command.log")"
  note "ours and bare, in ms: $(paste -sd';' "$work/measurements")"
  awk '{ print $1 }' "$work/measurements" | report batch_ms ms
  awk '{ print $2 }' "$work/measurements" | report bare_ms ms
  report time_ratio ratio --names batch_ms,bare_ms <"$work/measurements"
}
