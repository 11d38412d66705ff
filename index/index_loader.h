#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/data_dir.h"
#include "index/entry_table.h"
#include "index/index_db.h"

namespace sluice::index {

using OpenIndex = std::function<absl::StatusOr<std::unique_ptr<IndexDb>>(const std::string& path)>;

// The index as it was found. What it claims of files has not been held against them yet.
struct LoadedIndex {
  std::unique_ptr<IndexDb> db;
  IndexContents contents = IndexContents::kCurrent;
  bool rebuilt = false;  // it was lost or damaged, and begun anew
  std::string reason;    // why; empty if not rebuilt
};

// Opens the index, and adds an entry to the empty `table` for each blob that it knows. A damaged index is set
// aside and begun anew. Errors: those of IndexDb but DataLoss.
absl::StatusOr<LoadedIndex> LoadEntries(const DataDir& data_dir, const OpenIndex& open_index,
                                        EntryTable* table);

}  // namespace sluice::index
