# shellcheck shell=bash disable=SC2034,SC2154  # run.sh, its lib.sh and the scenarios set and use the rest
# A node that is a mirror, and a registry behind a link. Sourced by scenarios.

# shellcheck source=tests/net/lib_link.sh
source tests/net/lib_link.sh

export BACKEND=off

# start_mirror: a node; sets mirror, its host:port.
start_mirror() {
  mirror=127.0.0.1:$(free_port)
  start_node 'mirror:' "  listen: \"$mirror\""
}

# put_random_blob NAME BYTES: into the registry, in the repository NAME; sets blob (its digest) and blob_bytes.
put_random_blob() {
  blob_bytes=$2
  head -c "$2" /dev/urandom >"$work/blob"
  blob=$(upload "$1" "$work/blob")
}

# make_mirror_cold: the node has nothing of the blob.
make_mirror_cold() {
  sluice blob evict "$blob" >"$work/evict.log" 2>&1 || grep -q 'is not in the store' "$work/evict.log" ||
    fail "$(<"$work/evict.log")"
  drop_page_cache
}

through_mirror() { echo "http://$mirror/v2/$1/blobs/$blob?ns=$registry"; }
directly() { echo "http://$registry/v2/$1/blobs/$blob"; }
