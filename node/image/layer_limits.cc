#include "node/image/layer_limits.h"

#include "absl/strings/str_cat.h"

namespace sluice {

absl::Status LayerUsage::Add(uint64_t size, const LayerLimits& limits) {
  if (entries >= limits.entries_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("with it the image has more than ", limits.entries_max, " entries"));
  }
  if (size > limits.bytes_max || bytes > limits.bytes_max - size) {
    return absl::ResourceExhaustedError(
        absl::StrCat("with it the image's files have more than ", limits.bytes_max, " bytes"));
  }
  ++entries;
  bytes += size;
  return absl::OkStatus();
}

}  // namespace sluice
