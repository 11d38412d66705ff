# shellcheck shell=bash disable=SC2154  # run.sh and its lib.sh set the rest
# What crosses the wire for the quickstart's image and program: the frames of data blobs beside the plain bytes of the
# chunks that they hold (bootstrap and seek tables apart), and the whole lazy image beside the ordinary one. The
# figures are of bytes, the same each time.

# shellcheck source=tests/e2e/lib_images.sh
source tests/e2e/lib_images.sh

wire_bytes() { echo "$(metric sluice_origin_blob_bytes_total) $(metric sluice_origin_plain_bytes_total)"; }
# The seek table is asked for by the way.
wire_is_quiet() {
  local before
  before=$(wire_bytes)
  sleep 1
  [[ $(wire_bytes) == "$before" ]]
}

measure() {
  local layer ordinary lazy before
  layer=$(root_layer)
  start_registry
  push_ordinary ordinary "$layer"
  sluice image push "$registry/ordinary:1" "$registry/lazy:1" >&2
  start_node
  mount_image lazy "$work/mnt/lazy"
  wait_until wire_is_quiet || fail "the mount does not end"
  before=$(wire_bytes)
  chroot "$work/mnt/lazy" /usr/bin/python3 -c 'import ssl, sqlite3, asyncio, email, xml.dom.minidom, hashlib' >&2
  wait_until wire_is_quiet || fail "the node fetches on"
  awk '{ print $3 - $1, $4 - $2 }' <<<"$before $(wire_bytes)" |
    report wire_over_touched ratio --pairs-min 1 --names wire_bytes,plain_bytes
  ordinary=$(manifest ordinary | jq '[.layers[].size] | add')
  lazy=$(manifest lazy | jq '[.layers[].size] | add')
  echo "$lazy $ordinary" | report image_over_gzip ratio --pairs-min 1 --names lazy_bytes,ordinary_bytes
}
