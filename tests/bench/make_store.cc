// Makes a data directory as a busy node has it: many large blobs, their recipes in the index, and every other
// chunk present. Nothing is written to the blobs' files, which stay sparse.
//
// usage: make_store DATA_DIR BLOBS GIB_PER_BLOB

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "index/disk_store.h"
#include "node/telemetry.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/sha256.h"
#include "weightless_file_system.h"

namespace sluice {
namespace {

Digest HashPair(const Digest& left, const Digest& right) {
  p2p::Sha256 hash;
  hash.Update(std::as_bytes(left.bytes()));
  hash.Update(std::as_bytes(right.bytes()));
  return hash.Finish();
}

// REQUIRES: the number of leaves is a power of two, so that BEP 52 pads nothing.
Digest RootOf(std::vector<Digest> level) {
  for (; level.size() > 1; level.resize(level.size() / 2)) {
    for (size_t i = 0; i < level.size() / 2; ++i) level[i] = HashPair(level[2 * i], level[2 * i + 1]);
  }
  return level.front();
}

// A recipe that is sound in itself, of a blob that nobody has.
p2p::Recipe InventRecipe(int number, uint64_t size) {
  p2p::Recipe recipe;
  recipe.blob = p2p::Sha256::Of(absl::StrCat("blob ", number));
  recipe.size = size;
  recipe.chunk_size = ChunkGeometry::ChunkSizeFor(size);
  for (uint32_t i = 0; i < recipe.geometry().chunk_count(); ++i) {
    recipe.layer.push_back(p2p::Sha256::Of(absl::StrCat("blob ", number, " chunk ", i)));
  }
  recipe.root = RootOf(recipe.layer);
  return recipe;
}

absl::Status AddBlob(index::DiskStore& store, const p2p::Recipe& recipe) {
  BlobSpec spec;
  spec.digest = recipe.blob;
  spec.size = recipe.size;
  spec.chunk_size = recipe.chunk_size;
  spec.root = recipe.root;
  spec.origins = {{"registry.example:5000", "team/application"}};
  auto blob = store.Open(spec);
  if (!blob.ok()) return blob.status();
  if (auto put = store.PutRecipe(recipe.blob, recipe.EncodeTorrent()); !put.ok()) return put;

  const std::vector<std::byte> bytes(recipe.chunk_size);
  for (uint32_t i = 0; i < recipe.geometry().chunk_count(); i += 2) {
    if (auto done = store.Commit(**blob, ChunkIndex(i), bytes, Evidence::kVerified); !done.ok()) return done;
  }
  return absl::OkStatus();
}

absl::Status MakeStore(const std::string& data_dir, int blobs, uint64_t gib_per_blob) {
  Telemetry telemetry;
  bench::WeightlessFileSystem file_system;
  auto store = index::DiskStore::OpenStore(
      {.data_dir = data_dir, .telemetry = telemetry, .file_system = file_system, .sync_bytes_max = 1 << 30});
  if (!store.ok()) return store.status();
  for (int i = 0; i < blobs; ++i) {
    if (auto added = AddBlob(**store, InventRecipe(i, gib_per_blob << 30)); !added.ok()) return added;
  }
  (*store)->Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: make_store DATA_DIR BLOBS GIB_PER_BLOB\n";
    return 2;
  }
  const auto made = sluice::MakeStore(argv[1], std::atoi(argv[2]), std::strtoull(argv[3], nullptr, 10));
  if (!made.ok()) std::cerr << "make_store: " << made << "\n";
  return made.ok() ? 0 : 1;
}
