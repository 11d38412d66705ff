#include "p2p/recipe/recipe.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "taken.h"

namespace {

sluice::fuzz::Parser parser("recipes");

}  // namespace

// The encoding is canonical: what is taken is exactly what we make.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<sluice::p2p::Recipe> recipe = sluice::p2p::Recipe::DecodeTorrent(bytes);
  if (!recipe.ok()) return 0;
  parser.Took();
  if (recipe->EncodeTorrent() != bytes) std::abort();
  // What was taken can be used: its chunks can be named, and its own root binds it.
  const sluice::ChunkGeometry geometry = recipe->geometry();
  if (!sluice::ChunkGeometry::Validate(recipe->size, recipe->chunk_size).ok()) std::abort();
  if (recipe->layer.size() != (geometry.chunk_count() == 1 ? 0 : geometry.chunk_count())) std::abort();
  if (!recipe->IsBoundBy({recipe->blob, recipe->size, recipe->chunk_size, recipe->root, {}})) std::abort();
  return 0;
}
