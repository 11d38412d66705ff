#include "p2p/recipe/recipe.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

// The encoding is canonical: what is taken is exactly what we make.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<sluice::p2p::Recipe> recipe = sluice::p2p::Recipe::DecodeTorrent(bytes);
  if (recipe.ok() && recipe->EncodeTorrent() != bytes) std::abort();
  return 0;
}
