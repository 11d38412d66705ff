#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/image/tar_header.h"

namespace sluice {

// Where the bytes of a sparse file lie, as a tar archive says: all of them are stored one after another, and
// zeros are between. Movable.
class SparseMap {
 public:
  static constexpr size_t kRunsMax = 1 << 20;

  struct Run {
    uint64_t offset = 0;
    uint64_t size = 0;
  };

  // Appends a run; an empty one is left out. Errors: InvalidArgument (negative, or not behind the run
  // before), ResourceExhausted (too many).
  absl::Status Add(int64_t offset, int64_t size);
  // Appends those of "OFFSET,SIZE,OFFSET,SIZE..." in decimal. Errors: also InvalidArgument (none such).
  absl::Status AddText(std::string_view text);

  // Appends those of a header of type 'S' (GNU's oldest form), or of a block that goes on with it. Returns
  // whether another such block follows. Errors: also InvalidArgument (a field that is no number).
  absl::StatusOr<bool> AddOldHeader(TarBlock block) { return AddFields(block, kHeaderFields); }
  absl::StatusOr<bool> AddOldExtension(TarBlock block) { return AddFields(block, kExtensionFields); }

  // Errors: InvalidArgument unless all runs lie within a file of `size` bytes and have `stored` bytes
  // together.
  absl::Status Check(uint64_t size, uint64_t stored) const;

  size_t added() const { return added_; }  // also empty ones
  const std::vector<Run>& runs() const { return runs_; }

 private:
  struct Fields {
    size_t offset;
    size_t runs;
  };
  static constexpr Fields kHeaderFields{386, 4};
  static constexpr Fields kExtensionFields{0, 21};

  absl::StatusOr<bool> AddFields(TarBlock block, Fields fields);

  std::vector<Run> runs_;
  size_t added_ = 0;
  uint64_t end_ = 0;    // of the last run
  uint64_t bytes_ = 0;  // of all runs
};

// Reads the map of GNU's sparse format 1.0, which stands in decimal lines before the stored bytes: the number
// of runs, then offset and size of each.
class SparseTextParser {
 public:
  // Takes the next bytes, as far as the map goes. Errors: InvalidArgument, ResourceExhausted.
  absl::Status Feed(std::string_view bytes);
  bool done() const { return have_count_ && numbers_left_ == 0; }
  SparseMap Take() { return std::move(map_); }

 private:
  absl::Status FinishNumber();

  SparseMap map_;
  bool have_count_ = false;
  size_t numbers_left_ = 0;
  size_t digits_ = 0;   // of the number under way
  int64_t number_ = 0;  // likewise
  int64_t offset_ = 0;  // of the run under way
};

}  // namespace sluice
