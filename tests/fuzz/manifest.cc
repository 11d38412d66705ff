#include "p2p/registry/manifest.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

using namespace sluice::p2p;

// What is taken can be written, and reads back the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)ParseImageConfig(bytes);
  const absl::StatusOr<Manifest> manifest = ParseManifest(bytes, "");
  if (!manifest.ok()) return 0;
  if (const auto* image = std::get_if<ImageManifest>(&*manifest)) {
    const absl::StatusOr<Manifest> again = ParseManifest(SerializeManifest(*image), "");
    if (!again.ok() || std::get<ImageManifest>(*again) != *image) std::abort();
    (void)FindLazyImage(*image, {"registry.example", "app"});
  } else {
    const ImageIndex& index = std::get<ImageIndex>(*manifest);
    const absl::StatusOr<Manifest> again = ParseManifest(SerializeIndex(index), "");
    if (!again.ok() || std::get<ImageIndex>(*again) != index) std::abort();
    (void)SelectPlatform(index, Platform::Host());
  }
  return 0;
}
