#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/index_codec.h"
#include "node/blob_key.h"

namespace sluice::index {

// Changes that reach the index together or not at all.
class IndexBatch {
 public:
  struct Change {
    enum class Kind { kPut, kDelete, kDeleteRange };
    Kind kind = Kind::kPut;
    std::string key;
    std::string value;  // of kDeleteRange: the first key that stays
  };

  void PutBlob(const BlobKey& id, const BlobRecord& record);
  // A segment without a present chunk is removed.
  void PutSegment(const BlobKey& id, SegmentIndex segment, const PresenceSegment& value);
  void DeleteSegments(const BlobKey& id, const ChunkGeometry& geometry);
  // The record and the segments.
  void DeleteBlob(const BlobKey& id, const ChunkGeometry& geometry);
  // All that version 1 has left.
  void DeleteEarlier();

  void Add(Change change) { changes_.push_back(std::move(change)); }

  bool empty() const { return changes_.empty(); }
  // In this order; of two changes of one key the later one stands.
  const std::vector<Change>& changes() const { return changes_; }

 private:
  std::vector<Change> changes_;
};

enum class Durability {
  kSynced,   // on disk when the call returns
  kOrdered,  // on disk no later than the next synced batch; may be lost before that
};

// Port: the index on disk, an ordered map of keys to values. It knows nothing of files and of memory.
//
// Thread-safe; every method may block on disk.
class IndexDb {
 public:
  using Visitor = std::function<absl::Status(std::string_view key, std::string_view value)>;

  virtual ~IndexDb() = default;

  // Hands out every key, in order. Errors: DataLoss if anything can't be read, also when some keys were
  // handed out already; Unavailable (the disk); what the visitor returned, which ends the scan.
  virtual absl::Status Scan(const Visitor& visit) = 0;
  // Errors: ResourceExhausted (no space), DataLoss (damage was found; the next opening says so too),
  // Unavailable. After an error the batch may or may not be on disk.
  virtual absl::Status Write(const IndexBatch& batch, Durability durability) = 0;
  // Makes the index work again after room was made on a disk that was full. Write does so by itself, once in
  // a while.
  virtual void Reopen() = 0;
};

// What LoadIndex hands out. A record of the earlier version comes with no file, and without segments.
struct IndexVisitor {
  std::function<absl::Status(const BlobKey&, BlobRecord)> on_blob;
  std::function<absl::Status(const BlobKey&, SegmentIndex, const PresenceSegment&)> on_segment;
};

// Whether anything of the earlier version is in the index, and is to be deleted.
enum class IndexContents { kCurrent, kEarlier };

// Hands out every blob, then every segment. Errors: DataLoss if anything can't be decoded; those of Scan.
absl::StatusOr<IndexContents> LoadIndex(IndexDb& db, const IndexVisitor& visitor);

}  // namespace sluice::index
