#include "p2p/registry/layer_types.h"

#include <algorithm>
#include <array>

namespace sluice::p2p {

bool IsTarLayer(std::string_view media_type) {
  static constexpr std::array<std::string_view, 12> kTypes = {
      "application/vnd.oci.image.layer.v1.tar",
      "application/vnd.oci.image.layer.v1.tar+gzip",
      "application/vnd.oci.image.layer.v1.tar+zstd",
      "application/vnd.oci.image.layer.nondistributable.v1.tar",
      "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
      "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
      "application/vnd.docker.image.rootfs.diff.tar",
      "application/vnd.docker.image.rootfs.diff.tar.gzip",
      "application/vnd.docker.image.rootfs.diff.tar.zstd",
      "application/vnd.docker.image.rootfs.foreign.diff.tar",
      "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
      "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
  };
  return std::find(kTypes.begin(), kTypes.end(), media_type) != kTypes.end();
}

}  // namespace sluice::p2p
