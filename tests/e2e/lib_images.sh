# shellcheck shell=bash
# Ordinary images to make lazy ones of. Sourced, after lib.sh.
# shellcheck disable=SC2154  # lib.sh sets $work and $registry

# Where this machine's apt gets Debian bookworm from.
bookworm_mirror() {
  # shellcheck disable=SC2016  # the variable is apt's
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
    head -n 1
}

# root_tarball [PACKAGE,...]: the path of a Debian root file system with these packages (default: what can run Python,
# Perl, git and gcc), as a tar archive; made from the configured mirror the first time.
root_tarball() {
  local include=${1:-python3,perl,git,gcc} cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice mirror tarball
  tarball=$cache/debian-bookworm-$(dpkg --print-architecture)-minbase-${include//,/-}.tar
  if [[ ! -s $tarball ]]; then
    install_packages "${SLUICE_QUICKSTART_PACKAGES[@]}" >&2
    mirror=$(bookworm_mirror)
    [[ -n $mirror ]] || { apt-get update -qq >&2; mirror=$(bookworm_mirror); }
    [[ -n $mirror ]] || fail "apt has no mirror of Debian bookworm configured"
    note "no root file system at hand; debootstrap makes one, kept for later runs in $cache"
    debootstrap --variant=minbase --include="$include" --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
      bookworm "$work/bootstrap" "$mirror" >"$work/debootstrap.log" 2>&1 ||
      fail "debootstrap: $(tail -n 3 "$work/debootstrap.log")"
    # The downloaded packages would only pad the image with bytes that no program reads.
    rm -rf "$work"/bootstrap/var/cache/apt/archives/*.deb "$work"/bootstrap/var/lib/apt/lists/*
    mkdir -p "$cache"
    tar --numeric-owner --xattrs -C "$work/bootstrap" -cf "$tarball.new" .
    mv "$tarball.new" "$tarball"
    rm -rf "$work/bootstrap"
  fi
  echo "$tarball"
}

# root_layer [PACKAGE,...]: the same, compressed as a layer of an ordinary image is; kept beside it.
root_layer() {
  local tarball
  tarball=$(root_tarball "$@")
  if [[ ! $tarball.gz -nt $tarball ]]; then
    gzip -6 -n <"$tarball" >"$tarball.gz.new"
    mv "$tarball.gz.new" "$tarball.gz"
  fi
  echo "$tarball.gz"
}

# push_ordinary NAME LAYER...: an ordinary image of gzip layers, lowest first, as $registry/NAME:1.
push_ordinary() {
  local layer digest diff_ids=() layers=() config
  for layer in "${@:2}"; do
    diff_ids+=("sha256:$(gzip -dc "$layer" | sha256sum | cut -d' ' -f1)")
    digest=$(upload "$1" "$layer")
    layers+=("$(jq -nc --arg digest "$digest" --argjson size "$(stat -c %s "$layer")" \
      '{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: $digest, size: $size}')")
  done
  jq -nc --arg architecture "$(dpkg --print-architecture)" \
    '{os: "linux", architecture: $architecture, config: {}, rootfs: {type: "layers", diff_ids: $ARGS.positional}}' \
    --args "${diff_ids[@]}" >"$work/image-config"
  config=$(upload "$1" "$work/image-config")
  printf '%s\n' "${layers[@]}" | jq -sc --arg digest "$config" --argjson size "$(stat -c %s "$work/image-config")" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
      config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $digest, size: $size}, layers: .}' |
    put_manifest "$1" 1
}

# push_random NAME BYTES: an ordinary image of one layer that nothing makes smaller; sets layer, its digest, and size. It is
# left in $work/layer.gz.
push_random() {
  mkdir "$work/layer"
  head -c "$2" /dev/urandom >"$work/layer/bytes"
  tar --numeric-owner -C "$work/layer" -cf - . | gzip -1 >"$work/layer.gz"
  push_ordinary "$1" "$work/layer.gz"
  # shellcheck disable=SC2034  # for whoever calls it
  layer=sha256:$(sha256sum <"$work/layer.gz" | cut -d' ' -f1) size=$(stat -c %s "$work/layer.gz")
}
