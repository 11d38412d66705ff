# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# Opening a store of 1,000 blobs and 10 million chunks, beside opening the RocksDB in it and reading the same rows; and
# what the open store has resident. Each open is a process of its own, with the files in the page cache.

readonly blobs=1000 chunks_per_blob=10000

open_with() {
  "$tools/store_open" "$1" "$data_dir" "$blobs" "$chunks_per_blob" >"$work/opened" 2>"$work/command.log" ||
    fail "store_open $1: $(tail -n 1 "$work/command.log")"
}
open_ours() { open_with store && read -r ours resident <"$work/opened"; }
open_bare() { open_with bare && read -r bare <"$work/opened"; }

column() { awk -v number="$1" '{ print $number }' "$work/measurements"; }

measure() {
  local pair ours bare resident
  note "making a store of $blobs blobs with $chunks_per_blob chunks each"
  open_with make
  # The first open replays the log that the making left behind.
  open_ours
  open_bare

  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$pair" open_ours open_bare
    note "ours $ours ms, RocksDB $bare ms, $resident bytes resident"
    echo "$ours $bare $resident" >>"$work/measurements"
  done
  column 1 | report open_ms ms
  column 2 | report rocksdb_open_ms ms
  awk '{ print $1 - $2 }' "$work/measurements" | report open_over_rocksdb_ms ms
  awk -v chunks=$((blobs * chunks_per_blob)) '{ print $3 / chunks }' "$work/measurements" |
    report resident_bytes_per_chunk bytes
}
