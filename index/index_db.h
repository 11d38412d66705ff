#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/index_codec.h"
#include "node/digest.h"

namespace sluice::index {

// Changes that reach the index together or not at all.
class IndexBatch {
 public:
  IndexBatch();
  ~IndexBatch();
  IndexBatch(IndexBatch&&) noexcept;
  IndexBatch& operator=(IndexBatch&&) noexcept;

  void PutBlob(const Digest& digest, const BlobRecord& record);
  // A segment without a present chunk is removed.
  void PutSegment(const Digest& digest, SegmentIndex segment, const PresenceSegment& value);
  void DeleteSegments(const Digest& digest, const ChunkGeometry& geometry);
  // The record, the segments and the recipe.
  void DeleteBlob(const Digest& digest, const ChunkGeometry& geometry);
  bool empty() const;

 private:
  friend class IndexDb;
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// The index on disk: RocksDB, sized for a small node. It knows nothing of files and of memory.
//
// Thread-safe; every method may block on disk.
class IndexDb {
 public:
  enum class Durability {
    kSynced,   // on disk when the call returns
    kOrdered,  // on disk no later than the next synced batch; may be lost before that
  };

  // Opens the database in directory `path`, or makes one if the directory is missing or empty. Errors:
  // DataLoss (damaged: no reading or repairing is attempted), Unavailable (the disk).
  static absl::StatusOr<std::unique_ptr<IndexDb>> Open(const std::string& path);
  ~IndexDb();

  // Hands out every blob, then every segment. Errors: DataLoss if anything can't be read or decoded, also
  // when some were handed out already; Unavailable (the disk); what a visitor returned.
  absl::Status Load(
      const std::function<absl::Status(const Digest&, BlobRecord)>& on_blob,
      const std::function<absl::Status(const Digest&, SegmentIndex, const PresenceSegment&)>& on_segment);

  // Errors: ResourceExhausted (no space), DataLoss (damage was found; the next Open says so too),
  // Unavailable. After an error the batch may or may not be on disk.
  absl::Status Write(IndexBatch batch, Durability durability);
  // Opens the database anew, after room was made on a disk that was full. Write does so by itself, once in a
  // while.
  void Reopen();

  // Errors: NotFound; Unavailable.
  absl::StatusOr<std::string> GetRecipe(const Digest& digest);
  // Errors: InvalidArgument (longer than kRecipeBytesMax); as Write.
  absl::Status PutRecipe(const Digest& digest, std::string_view recipe);

 private:
  struct Rep;
  explicit IndexDb(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace sluice::index
