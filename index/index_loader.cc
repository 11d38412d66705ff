#include "index/index_loader.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

absl::Status AddBlob(const BlobKey& id, BlobRecord record, EntryTable* table) {
  const Digest digest = record.digest.value_or(id.name());
  auto blob = std::make_shared<Blob>(id, FactsOf(digest, record));
  if (record.state == BlobState::kRefused) blob->Refuse();
  table->Insert(std::make_shared<BlobEntry>(std::move(blob), std::move(record)));
  return absl::OkStatus();
}

absl::Status AddSegment(const BlobKey& id, SegmentIndex segment, const PresenceSegment& value,
                        const EntryTable& table) {
  const EntryPtr entry = table.Find(id);
  if (!entry) return absl::DataLossError(absl::StrCat("index: chunks of an unknown ", id.ToString()));
  if (value.chunk_count() != segment.ChunksIn(entry->blob->geometry()).count) {
    return absl::DataLossError(absl::StrCat("index: chunks past the end of ", id.ToString()));
  }
  std::lock_guard lock(entry->mutex);
  entry->Load(segment, value);
  // Chunks that came before access was noted may have come by credentials; what was imported came by
  // nobody's.
  if (entry->record.is_imported) return absl::OkStatus();
  std::vector<OriginAccess>& access = entry->record.access;
  const auto unknown = [](OriginAccess known) { return known == OriginAccess::kUnknown; };
  if (std::all_of(access.begin(), access.end(), unknown)) {
    std::fill(access.begin(), access.end(), OriginAccess::kCredentials);
  }
  return absl::OkStatus();
}

absl::Status TryToLoad(const std::string& path, const OpenIndex& open_index, EntryTable* table,
                       LoadedIndex* loaded) {
  table->Clear();
  loaded->db.reset();
  absl::StatusOr<std::unique_ptr<IndexDb>> db = open_index(path);
  if (!db.ok()) return db.status();
  loaded->db = *std::move(db);
  const IndexVisitor visitor{
      [&](const BlobKey& id, BlobRecord record) { return AddBlob(id, std::move(record), table); },
      [&](const BlobKey& id, SegmentIndex segment, const PresenceSegment& value) {
        return AddSegment(id, segment, value, *table);
      }};
  const absl::StatusOr<IndexContents> contents = LoadIndex(*loaded->db, visitor);
  if (contents.ok()) loaded->contents = *contents;
  return contents.status();
}

}  // namespace

absl::StatusOr<LoadedIndex> LoadEntries(const DataDir& data_dir, const OpenIndex& open_index,
                                        EntryTable* table) {
  const std::string path = data_dir.index_path();
  std::error_code error;
  const bool had_index = std::filesystem::exists(path, error);
  const absl::StatusOr<std::vector<BlobKey>> files = data_dir.ListBlobFiles();
  if (!files.ok()) return files.status();
  LoadedIndex loaded;
  absl::Status status = TryToLoad(path, open_index, table, &loaded);
  if (absl::IsResourceExhausted(status) && data_dir.ReleaseReserve()) {
    status = TryToLoad(path, open_index, table, &loaded);
  }
  if (absl::IsDataLoss(status)) {
    loaded.rebuilt = true;
    loaded.reason = std::string(status.message());
    loaded.db.reset();
    if (absl::Status moved = data_dir.SetIndexAside(); !moved.ok()) return moved;
    status = TryToLoad(path, open_index, table, &loaded);
    if (absl::IsDataLoss(status)) status = absl::UnavailableError(status.message());
  } else if (status.ok() && !had_index && !files->empty() && table->All().empty()) {
    loaded.rebuilt = true;
    loaded.reason = absl::StrCat(path, " is missing");
  }
  if (!status.ok()) return status;
  return loaded;
}

}  // namespace sluice::index
