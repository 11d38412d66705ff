#include "index/content_importer.h"

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "index/blob_hasher.h"

namespace sluice::index {

absl::StatusOr<ImportedAs> ContentImporter::Import(const Digest& digest, const CancelCheck& stop) {
  if (parts_.lifecycle.IsKept(digest)) return absl::AlreadyExistsError("the store knows it");
  const std::string path = parts_.content.PathOf(digest);
  const absl::StatusOr<ContentFiles::Found> found = parts_.content.Open(digest);
  if (!found.ok()) return found.status();
  BlobRecord record;
  record.size = found->size;
  record.chunk_size = kChunkSizeDefault;
  record.is_imported = true;
  absl::Status valid = record.size == 0 ? absl::InvalidArgumentError("it is empty")
                                        : ChunkGeometry::Validate(record.size, record.chunk_size);
  if (!valid.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", valid.message()));
  if (std::llabs(parts_.wall_clock() - found->file.changed_ns / 1'000'000) < kAgeMinMs)
    return absl::UnavailableError(absl::StrCat(path, " was changed just now"));
  const absl::Status wrong =
      absl::DataLossError(absl::StrCat(path,
                                       " has not the bytes that its name says; containerd's \"ctr content "
                                       "rm\" takes it away"));
  if (const std::optional<Verdict> verdict = VerdictOf(digest, found->file)) {
    if (*verdict == Verdict::kWrong) return wrong;
    return absl::AlreadyExistsError(absl::StrCat(path, " was taken in before, and evicted since"));
  }

  uint64_t failed_at = 0;
  const std::unique_ptr<RecipeMaker> maker =
      parts_.make_recipe ? parts_.make_recipe(record.chunk_size) : nullptr;
  const absl::StatusOr<Digest> hash =
      HashFile(parts_.file_system, found->fd.get(), found->size, stop, &failed_at, maker.get(), nullptr);
  if (absl::IsDataLoss(hash.status()))
    return absl::UnavailableError(absl::StrCat(path, ": ", hash.status().message()));
  if (!hash.ok()) return hash.status();
  const auto is_unchanged = [&] { return parts_.content.Holds(digest, found->file, found->size); };
  if (!is_unchanged()) return absl::UnavailableError(absl::StrCat(path, " was changed while it was read"));
  if (*hash != digest) {
    Judge(digest, found->file, Verdict::kWrong);
    return wrong;
  }
  std::optional<RecipeMaker::Made> recipe;
  if (maker) {
    absl::StatusOr<RecipeMaker::Made> made = maker->Finish();
    if (!made.ok()) return made.status();
    recipe = *std::move(made);
  }

  ImportedAs imported_as = ImportedAs::kInPlace;
  const auto take_file = [&]() -> absl::StatusOr<FileIdentity> {
    if (clone_works_) {
      absl::StatusOr<FileIdentity> clone = parts_.files.Clone(digest, found->size, found->fd.get());
      if (!clone.ok() && !absl::IsUnimplemented(clone.status())) return clone;
      clone_works_ = clone.ok();
      if (clone.ok()) imported_as = ImportedAs::kReflinked;
      // It has the bytes that were hashed only if nobody has changed them since.
      if (clone.ok() && is_unchanged()) return clone;
      if (clone.ok()) {
        parts_.files.Remove(digest).IgnoreError();
        return absl::UnavailableError(absl::StrCat(path, " was changed while it was read"));
      }
    }
    return found->file;
  };
  const absl::Status taken = parts_.lifecycle.RegisterWhole(digest, std::move(record), take_file, recipe);
  if (!taken.ok()) return taken;
  Judge(digest, found->file, Verdict::kRight);
  return imported_as;
}

std::optional<ContentImporter::Verdict> ContentImporter::VerdictOf(const Digest& digest,
                                                                   const FileIdentity& file) {
  const std::lock_guard lock(mutex_);
  const auto known = judged_.find(digest);
  if (known == judged_.end() || known->second.file != file) return std::nullopt;
  return known->second.verdict;
}

void ContentImporter::Judge(const Digest& digest, const FileIdentity& file, Verdict verdict) {
  const std::lock_guard lock(mutex_);
  if (judged_.size() >= kJudgedMax) judged_.clear();
  judged_.insert_or_assign(digest, Judged{file, verdict});
}

}  // namespace sluice::index
