#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "index/blob_files.h"
#include "index/blob_lifecycle.h"
#include "index/content_files.h"
#include "index/store_file_system.h"
#include "node/cancel_check.h"
#include "node/digest.h"
#include "node/recipe_maker.h"

namespace sluice::index {

// How the store has the bytes of a blob that was imported: its own file shares their room on disk, or they
// are read where they lie.
enum class ImportedAs { kReflinked, kInPlace };

// Takes blobs of containerd's content store in, whole and hashed, without a second copy of their bytes.
//
// Thread-safe; every method blocks on disk.
class ContentImporter {
 public:
  // A file that was changed less long ago may be changed again without a later time of change.
  static constexpr int64_t kAgeMinMs = 1000;
  // Files that were judged, and are not hashed again.
  static constexpr size_t kJudgedMax = ContentFiles::kFilesMax;

  // All outlive this.
  struct Parts {
    StoreFileSystem& file_system;
    const ContentFiles& content;
    BlobFiles& files;
    BlobLifecycle& lifecycle;
    const MakeRecipe& make_recipe;              // may be empty: it has no recipe then
    const std::function<int64_t()> wall_clock;  // milliseconds since 1970
  };
  explicit ContentImporter(Parts parts) : parts_(std::move(parts)) {}

  // Errors: AlreadyExists (the store knows the blob, or it was taken from that very file before and was
  // evicted since); NotFound (the content store has it not); DataLoss (its bytes are another digest's; said
  // again, without hashing it, until the file changes); InvalidArgument (empty, or too large); Unavailable
  // (it was changed just now; the disk); PermissionDenied; ResourceExhausted; Cancelled. Then nothing has
  // changed.
  absl::StatusOr<ImportedAs> Import(const Digest& digest, const CancelCheck& stop);

 private:
  enum class Verdict { kRight, kWrong };
  struct Judged {
    FileIdentity file;
    Verdict verdict = Verdict::kRight;
  };
  std::optional<Verdict> VerdictOf(const Digest& digest, const FileIdentity& file);
  void Judge(const Digest& digest, const FileIdentity& file, Verdict verdict);

  const Parts parts_;
  std::atomic<bool> clone_works_{true};  // until the file system refuses

  std::mutex mutex_;
  absl::flat_hash_map<Digest, Judged> judged_;  // guarded by mutex_
};

}  // namespace sluice::index
