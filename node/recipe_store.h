#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob_key.h"

namespace sluice {

// Keeps recipes (the bytes of a BEP 52 .torrent) by the key of the blob they describe. Implemented by
// index/.
//
// Thread-safe; may block on disk.
class RecipeStore {
 public:
  virtual ~RecipeStore() = default;

  // Errors: NotFound; Unavailable (disk).
  virtual absl::StatusOr<std::string> GetRecipe(const BlobKey& blob) = 0;
  // Replaces what was there. Errors: Unavailable (disk).
  virtual absl::Status PutRecipe(const BlobKey& blob, std::string_view recipe) = 0;
};

}  // namespace sluice
