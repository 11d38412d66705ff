#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "index/blob_entry.h"
#include "index/chunk_writer.h"
#include "index/claim_log.h"
#include "index/file_guard.h"
#include "index/notifier.h"
#include "index/recipe_files.h"
#include "index/store_file_system.h"
#include "index/syncer.h"
#include "node/cancel_check.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"
#include "node/recipe_maker.h"
#include "node/telemetry.h"

namespace sluice::index {

struct VerifyReport {
  uint32_t checked = 0;
  uint32_t ok = 0;
  uint32_t bad = 0;           // taken back; they will be fetched again when they are wanted
  uint32_t unverifiable = 0;  // no recipe, and the blob is not complete
};

// How far a Verify is.
struct VerifyProgress {
  uint64_t read_bytes = 0;
  uint64_t total_bytes = 0;  // to be read; grows when the whole file turns out to need a hash
  VerifyReport found;        // so far
};
// Called on the thread that verifies, after every read; must not block.
using OnVerifyProgress = std::function<void(const VerifyProgress&)>;

// As ChunkVerifier::Verify.
using VerifyChunk =
    std::function<absl::StatusOr<Evidence>(const Blob& blob, ChunkIndex, std::span<const std::byte>)>;
using OnWrongChunk = std::function<Task(const Blob& blob, ChunkIndex, std::span<const std::byte>)>;

// Holds the bytes on disk against what they should be: chunks against their recipe, whole blobs against their
// digest.
//
// Thread-safe; reads much. Checks end early, as inconclusive, when `stop` becomes true.
class BlobChecker {
 public:
  // All outlive the checker.
  struct Parts {
    StoreFileSystem& file_system;
    FileGuard& guard;
    ClaimLog& log;
    Notifier& notifier;
    Syncer& syncer;
    ChunkWriter& writer;
    RecipeFiles& recipes;
    Telemetry& telemetry;
    const MakeRecipe& make_recipe;  // may be empty; so may those that follow, as DiskStoreOptions says
    const VerifyChunk& verify_chunk;
    const OnWrongChunk& on_wrong_chunk;
    const std::function<bool(const Blob&)>& had_again;
    const std::function<void(const std::string&)>& alarm;
  };
  explicit BlobChecker(Parts parts) : parts_(parts) {}

  // As DiskStore::Verify.
  absl::StatusOr<VerifyReport> Verify(const EntryPtr& entry, ChunkVerifier& verifier, const CancelCheck& stop,
                                      const OnVerifyProgress& on_progress = nullptr);
  // Holds what is here unproven against the recipe, if there is one. Then hashes a blob that is durable and
  // not settled: it is settled then, or refused.
  void Check(const EntryPtr& entry, const std::atomic<bool>& stop);

 private:
  static bool NeedsWholeHash(const BlobEntry& entry, const VerifyReport& found);
  enum class ChunkCheck { kOk, kBad, kUnverifiable };
  struct Reading {
    const EntryPtr& entry;
    Blob& blob;
    int fd;
    uint64_t write_epoch;  // the file is the blob's for as long as this stands
  };
  void CheckUnproven(const EntryPtr& entry, const std::atomic<bool>& stop);
  void CheckWhole(const EntryPtr& entry, const std::atomic<bool>& stop);
  ChunkCheck CheckChunk(const Reading& reading, ChunkIndex index, std::span<std::byte> buffer,
                        const VerifyChunk& verify);
  void RecordVerified(const Reading& reading, ChunkIndex index, uint64_t revision);
  enum class WholeCheck { kMatches, kDiffers, kInconclusive };
  std::unique_ptr<RecipeMaker> RecipeToMake(const BlobEntry& entry) const;
  std::optional<Digest> KeepRecipe(const BlobEntry& entry, RecipeMaker& maker);
  // `on_read` is told the bytes that were read so far, or is null.
  WholeCheck HoldAgainstDigest(const EntryPtr& entry, const CancelCheck& stop,
                               const std::function<void(uint64_t)>& on_read = nullptr);
  void TakeBackBad(const Reading& reading, ChunkIndex index, std::span<const std::byte> bytes,
                   const absl::Status& why);
  void TakeBackRotten(const EntryPtr& entry, Blob& blob, ChunkIndex index, const absl::Status& why);
  void TakeBackWrong(const EntryPtr& entry, const Digest& found);
  void Alarm(const std::string& text) const {
    if (parts_.alarm) parts_.alarm(text);
  }

  const Parts parts_;
};

}  // namespace sluice::index
