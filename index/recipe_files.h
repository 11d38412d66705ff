#pragma once

#include <mutex>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/data_dir.h"
#include "index/store_file_system.h"
#include "node/blob_key.h"

namespace sluice::index {

inline constexpr size_t kRecipeBytesMax = 4 << 20;  // 65,536 hashes are 2 MiB

// The recipes, each in a file of its own that is there whole or not at all. Not in the index: a value of 2
// MiB goes through its log, its memory and every compaction, where nothing but the index's opening time is
// gained from it. A recipe is proven by its root whoever kept it, so it needs no claim.
//
// Thread-safe; every method may block on disk.
class RecipeFiles {
 public:
  // REQUIRES: both outlive this
  RecipeFiles(const DataDir& data_dir, StoreFileSystem& file_system)
      : data_dir_(data_dir), file_system_(file_system) {}

  // Errors: NotFound (none, or what is there is damaged, which is removed); Unavailable.
  absl::StatusOr<std::string> Get(const BlobKey& id);
  // Replaces what was there; synced. Errors: InvalidArgument (longer than kRecipeBytesMax);
  // ResourceExhausted, Unavailable (the disk; then what was there is there still).
  absl::Status Put(const BlobKey& id, std::string_view recipe);
  // Errors: Unavailable. It is no error if there is none.
  absl::Status Remove(const BlobKey& id);
  // Removes what a crash left half written, and the recipes of all but `known`. Errors: Unavailable.
  absl::Status RemoveStrangers(const absl::flat_hash_set<BlobKey>& known);

 private:
  const DataDir& data_dir_;
  StoreFileSystem& file_system_;
  std::mutex put_mutex_;  // so that two writers of one recipe don't share its new file
};

}  // namespace sluice::index
