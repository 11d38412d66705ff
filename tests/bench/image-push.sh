# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# Making and pushing a lazy image of an ordinary one (one gzip layer, on a registry on loopback), beside the same by
# hand, which pushes nothing: skopeo copy, tar -xz, mkfs.erofs, zstd -3 -T2 of the data blob.
# Arguments: the cases (60k, 200k-tiny, 1m-tiny; default: all).

install_packages erofs-utils skopeo
# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh

readonly rounds_max=5

# peak_of FILE COMMAND...: runs it, and writes seconds and the most resident memory (MB) to FILE.
peak_of() {
  python3 - "$@" <<'END' || fail "'${*:2}' failed: $(tail -n 1 "$work/command.log")"
import resource, subprocess, sys, time
started = time.monotonic()
with open(sys.argv[1] + ".log", "wb") as log:
    status = subprocess.run(sys.argv[2:], stdout=log, stderr=log).returncode
with open(sys.argv[1], "w") as out:
    print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6, file=out)
sys.exit(status)
END
}

push_ours() {
  # Another repository each time: what is there already is not sent.
  ((++pushes))
  peak_of "$work/ours" "$SLUICE_BIN/sluice" image push -q "$registry/$case:1" "$registry/$case-$pushes:1"
}

by_hand() {
  local started=$EPOCHREALTIME layer
  rm -rf "$work/hand"
  mkdir "$work/hand" "$work/hand/tree"
  skopeo copy -q --src-tls-verify=false "docker://$registry/$case:1" "dir:$work/hand/image" >&2
  layer=$(jq -r '.layers[0].digest' "$work/hand/image/manifest.json")
  tar --numeric-owner -C "$work/hand/tree" -xzf "$work/hand/image/${layer#sha256:}"
  mkfs.erofs --quiet --chunksize=65536 --blobdev="$work/hand/blob" -Eforce-chunk-indexes "$work/hand/bootstrap" \
    "$work/hand/tree" >&2
  zstd -q -3 -T2 -o "$work/hand/blob.zst" "$work/hand/blob"
  awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }' >"$work/by-hand"
  rm -rf "$work/hand"
}

measure_case() {
  local case=$1 files=$2 bytes=$3 corpus=$4 pushes=0 pair ours resident hand layer_bytes wire_bytes
  note "making the layer of $case"
  python3 tests/bench/make_image_tar.py "$files" "$bytes" "$corpus" | gzip -6 >"$work/layer.gz"
  layer_bytes=$(stat -c %s "$work/layer.gz")
  push_ordinary "$case" "$work/layer.gz"
  rm -f "$work/times" "$work/resident"
  for ((pair = 0; pair < pairs && pair < rounds_max; ++pair)); do
    in_turns "$pair" push_ours by_hand
    read -r ours resident <"$work/ours"
    hand=$(<"$work/by-hand")
    note "$case: ours $ours s and $resident MB, by hand $hand s"
    echo "$ours $hand" >>"$work/times"
    echo "$resident" >>"$work/resident"
  done
  report time_over_by_hand ratio --case "$case" --names ours_seconds,by_hand_seconds <"$work/times"
  report resident_mb MB --case "$case" <"$work/resident"
  wire_bytes=$(manifest "$case-1" | jq '[.layers[].size] | add')
  awk -v a="$wire_bytes" -v b="$layer_bytes" 'BEGIN { print a, b }' |
    report wire_over_layer ratio --pairs-min 1 --case "$case" --names ours_bytes,layer_bytes
  rm -rf "$work/layer.gz"
}

measure() {
  local corpus name cases=("$@")
  ((${#cases[@]})) || cases=(60k 200k-tiny 1m-tiny)
  corpus=$(root_tarball)
  start_registry
  for name in "${cases[@]}"; do
    case $name in
      60k) measure_case 60k 60000 780000000 "$corpus" ;;
      200k-tiny) measure_case 200k-tiny 200000 0 - ;;
      1m-tiny) measure_case 1m-tiny 1000000 0 - ;;
      *) fail "there is no case '$name'" ;;
    esac
  done
}
