# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# What the file of a 4 GiB blob has allocated beside what is present of it: two neighbouring chunks of each 16 MiB, and
# one of each 4 MiB, in the order of the file and in a random one; and a whole blob in sequence, for its extents.

readonly blob_bytes=$((4 << 30)) whole_bytes=$((512 << 20)) chunk_bytes=$((256 << 10))

# fill_blob CASE BYTES CHUNKS STRIDE_BYTES SEED: one measurement of a case, on a store of its own.
fill_blob() {
  local figures
  figures=$("$tools/store_space" "$data_dir" "${@:2}" 2>"$work/command.log") ||
    fail "store_space for $1: $(tail -n 1 "$work/command.log")"
  rm -rf "$data_dir"
  note "$1: allocated over present, at most, extents: $figures"
  echo "$figures" >>"$work/${1//\//-}"
}

column() { awk -v number="$1" '{ print $number }' "$work/${2//\//-}"; }

measure() {
  local round name
  for ((round = 1; round <= pairs; ++round)); do
    fill_blob 2-in-16m "$blob_bytes" 2 $((16 << 20)) 0
    fill_blob 1-in-4m "$blob_bytes" 1 $((4 << 20)) 0
    fill_blob 2-in-16m/shuffled "$blob_bytes" 2 $((16 << 20)) "$round"
    fill_blob 1-in-4m/shuffled "$blob_bytes" 1 $((4 << 20)) "$round"
    fill_blob whole "$whole_bytes" 1 "$chunk_bytes" 0
  done
  for name in 2-in-16m 1-in-4m 2-in-16m/shuffled 1-in-4m/shuffled whole; do
    column 1 "$name" | report allocated_over_present ratio --case "$name"
    column 2 "$name" | report allocated_over_present_peak ratio --case "$name"
    column 3 "$name" | report extents_per_blob extents --case "$name"
  done
}
