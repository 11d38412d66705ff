# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# tar of a mounted image whose blob is complete, beside the same bootstrap and blob mounted by hand from plain files.
# Both read from disk: the page cache is dropped before each.

# Given /dev/null to write to, tar reads no file at all.
tar_through_pipe() { tar -C "$1" -cf - . | cat >/dev/null; }

tar_once() {
  drop_page_cache
  seconds_of tar_through_pipe "$1"
}
tar_ours() { ours=$(tar_once "$work/mnt/ours"); }
tar_plain() { plain=$(tar_once "$work/mnt/plain"); }

measure() {
  python3 "$e2e_dir/make_tree.py" "$work/tree" --bytes 250000000 --files 3000
  start_registry
  start_node
  push_tree "$work/tree" tax
  mount_image tax "$work/mnt/ours" --fill --wait

  mkdir "$work/plain" "$work/mnt/plain"
  download_plain tax 0 "$work/plain/blob"
  download_plain tax -1 "$work/plain/bootstrap"
  python3 tests/bench/mount_by_hand.py "$work/plain/bootstrap" "$work/plain/blob" "$work/mnt/plain"
  [[ $(checksum_of "$work/mnt/ours") == $(checksum_of "$work/mnt/plain") ]] || fail "the two mounts differ"

  local pair ours plain
  for ((pair = 0; pair < pairs; ++pair)); do
    in_turns "$pair" tar_ours tar_plain
    note "ours $ours s, plain $plain s"
    echo "$ours $plain" >>"$work/measurements"
  done
  report time_ratio ratio --names ours_seconds,plain_seconds <"$work/measurements"
}
