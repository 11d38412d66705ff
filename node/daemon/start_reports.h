#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "api/start_report.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_observer.h"
#include "node/chunk_set.h"
#include "node/executor.h"
#include "node/read_request.h"

namespace sluice {

// Counts for each mount why its start took as long as it did. Always on: some sums for a mount, and, while
// its start is watched, some bits for each chunk. What two mounts share counts for both.
//
// Thread-safe; its lock is held for no longer than some additions, since the core loop takes it.
class StartReports final : public ChunkObserver {
 public:
  // A start that nothing was read of for so long is over.
  static constexpr Duration kFirstReadMax = std::chrono::minutes(10);
  // What a start is watched for, from its first read on, where nothing else is said.
  static constexpr Duration kLengthDefault = std::chrono::seconds(60);

  // A start is over `length` after its first read. `clock` outlives this.
  explicit StartReports(const Clock& clock, Duration length = kLengthDefault)
      : clock_(clock), length_(length) {}

  // Its blobs may be read, in the image's order, and it is to be mounted: what is known of the time until
  // then. In place of an earlier one at the same mount point.
  void Begin(api::StartReport report, const std::vector<std::shared_ptr<Blob>>& blobs);
  // It is mounted next. As the next, a no-op if it is not known.
  void Prepared(const std::string& mount_point, const api::PrepareTimes& times);
  // It is mounted.
  void Mounted(const std::string& mount_point);
  // It is elsewhere from now on, where it is not watched any more.
  void Moved(const std::string& from, const std::string& to);
  // It is not mounted, or not any more. No-op if it is not known.
  void End(const std::string& mount_point);

  // A reader waits for absent bytes of the blob. Returns what its end is told by, once.
  uint64_t ReadBegan(const BlobKey& key);
  void ReadEnded(const BlobKey& key, uint64_t began, uint64_t length, Duration waited,
                 const absl::StatusOr<ReadResult>& result);

  // Earlier starts have read them, so they are brought in ahead. No-op for what the image has not.
  void Foreseen(const std::string& mount_point, uint32_t blob, ChunkSpan chunks);
  // How a start came upon chunks that it had not touched before.
  enum class Touch { kWaits, kPasses };
  // REQUIRES: each chunk of a start once
  void Touched(const std::string& mount_point, const Blob& blob, ChunkSpan chunks, Touch touch);
  void Came(const Blob& blob, ChunkIndex index, std::optional<FetchClass> asked_as, SourceKind from) override;

  // Of the mount at that place; nothing if it is not mounted, or its start is not known.
  std::optional<api::StartReport> Of(const std::string& mount_point) const;

 private:
  // What is known of a blob's chunks while a start is watched.
  struct Chunks {
    explicit Chunks(const Blob& blob);
    ChunkSet here, profile, readahead, hint, fill;
    ChunkSet waited;  // touched, and not here by then
  };
  struct Entry {
    api::StartReport report;
    Instant prepared{};
    uint64_t reads_before = 0;  // of those that were told of, how many it is not for
    std::optional<Instant> mounted, first_read, ended;
    int waiting = 0;  // readers
    Instant waiting_since{};
    std::vector<BlobKey> blobs;  // in the image's order; none when it is over, as the next
    absl::flat_hash_map<BlobKey, Chunks> chunks = {};  //
  };
  using Entries = std::map<std::string, Entry>;

  // All with mutex_ held.
  Instant EndOf(const Entry& entry) const;
  bool IsOver(const Entry& entry, Instant now) const { return now >= EndOf(entry); }
  void NoteFirstRead(Entry& entry, Instant now);
  uint64_t& CounterOf(Entry& entry, const Chunks& chunks, ChunkIndex at) const;
  // Calls visit(Entry&, Chunks&) for each start that has the blob and is not over. Ends those that are.
  template <typename Visit>
  void ForWatched(const BlobKey& key, Visit visit);
  void StopWatching(Entry& entry, Instant now);
  void CountWatched();

  const Clock& clock_;
  const Duration length_;
  std::atomic<size_t> watched_{0};  // starts that are not known to be over
  mutable std::mutex mutex_;
  Entries entries_;     // by mount point; guarded by mutex_, as the next
  uint64_t reads_ = 0;  // that were told of
};

}  // namespace sluice
