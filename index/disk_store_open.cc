// What is done once: opening the store, and holding its index against the files that are there.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "index/disk_store.h"

namespace sluice::index {
namespace {

constexpr size_t kLostNamedMax = 8;  // in alarms; of more only the number is said

}  // namespace

absl::StatusOr<std::unique_ptr<DiskStore>> DiskStore::OpenStore(Options options) {
  absl::StatusOr<DataDir> data_dir = DataDir::OpenAndLock(options.data_dir);
  if (!data_dir.ok()) return data_dir.status();
  auto table = std::make_unique<EntryTable>();
  absl::StatusOr<LoadedIndex> index = LoadEntries(*data_dir, options.open_index, table.get());
  if (!index.ok()) return index.status();
  const IndexContents contents = index->contents;
  OpenReport report;
  report.rebuilt = index->rebuilt;
  report.reason = index->reason;
  std::unique_ptr<DiskStore> store(
      new DiskStore(std::move(options), *std::move(data_dir), std::move(table), *std::move(index)));
  store->report_ = std::move(report);
  if (absl::Status reconciled = store->Reconcile(contents); !reconciled.ok()) return reconciled;
  if (absl::Status removed = store->RemoveStrangers(); !removed.ok()) return removed;
  store->data_dir_.KeepReserve();
  store->usage_.MeasureRest();
  store->TakeUpWork();
  return store;
}

absl::Status DiskStore::Reconcile(IndexContents contents) {
  if (report_.rebuilt) {
    Alarm(absl::StrCat("the index was lost or damaged (", report_.reason, "); the cache begins anew"));
  }
  const std::vector<EntryPtr> lost = FindLost();
  if (!lost.empty() || contents == IndexContents::kEarlier) {
    if (absl::Status repaired = Repair(lost, contents); !repaired.ok()) return repaired;
  }
  for (const EntryPtr& entry : table_->All()) {
    ++report_.blobs;
    report_.chunks_present += entry->blob->presence().present_count();
    last_access_ms_ = std::max(last_access_ms_.load(), entry->record.last_access_ms);
  }
  return absl::OkStatus();
}

std::vector<EntryPtr> DiskStore::FindLost() {
  std::vector<EntryPtr> lost;
  for (const EntryPtr& entry : table_->All()) {
    std::lock_guard lock(entry->mutex);
    BlobRecord& record = entry->record;
    const bool was_lost = record.state == BlobState::kLost;
    std::optional<uint64_t> allocated;
    if (record.file) allocated = files_.Find(entry->id, *record.file, record.size);
    if (allocated) usage_.Measured(*entry, *allocated);
    if (was_lost && IsMounted(entry->id)) {
      entry->blob->Refuse();
    } else if (was_lost || (!allocated && record.state != BlobState::kRefused)) {
      lost.push_back(entry);
    }
  }
  return lost;
}

absl::Status DiskStore::Repair(const std::vector<EntryPtr>& lost, IndexContents contents) {
  for (const EntryPtr& entry : lost) {
    std::lock_guard lock(entry->mutex);
    const bool had_file = entry->record.file && !entry->record.file->is_in_place();
    entry->ForgetFile();
    const bool was_lost = entry->record.state == BlobState::kLost;
    entry->record.state = BlobState::kActive;
    if (!had_file || was_lost) continue;
    if (++report_.files_lost <= kLostNamedMax) {
      Alarm(absl::StrCat("the file of ", entry->Name(),
                         " is missing, too short, or a copy of another moment; its chunks are absent"));
    }
    // A mount lives on: it reads a file that is gone and can't be filled, or one whose pages it may know as
    // zeros.
    if (!IsMounted(entry->id)) continue;
    entry->blob->Refuse();
    entry->record.state = BlobState::kLost;
    options_.telemetry.blobs_refused.Add();
  }
  if (report_.files_lost > kLostNamedMax) {
    Alarm(absl::StrCat(report_.files_lost, " files in all are missing, too short, or copies"));
  }
  if (contents == IndexContents::kEarlier) {
    Alarm(
        "the index is of an earlier version, which did not say of which files it speaks; what is cached will "
        "be fetched again");
  }
  // The claims go before the files come back: over holes of the right size they would be lies.
  if (absl::Status dropped = log_.DropAllAndEarlier(lost); !dropped.ok()) return dropped;
  for (const EntryPtr& entry : lost) MakeAnew(entry);
  return absl::OkStatus();
}

void DiskStore::MakeAnew(const EntryPtr& entry) {
  std::lock_guard lock(entry->mutex);
  if (entry->blob->refused()) return;
  // A mount whose blob has no file that is known reads what has its name, and goes on with that.
  const uint64_t size = entry->record.size;
  const absl::StatusOr<FileIdentity> file =
      IsMounted(entry->id) ? files_.TakeOver(entry->id, size) : files_.Make(entry->id, size);
  if (file.ok()) {
    entry->SetFile(*file);
  } else {
    Alarm(absl::StrCat(file.status().message(), "; it is tried again when it is needed"));
  }
}

absl::Status DiskStore::RemoveStrangers() {
  absl::flat_hash_set<BlobKey> known;
  for (const EntryPtr& entry : table_->All()) known.insert(entry->id);
  const absl::StatusOr<std::vector<BlobKey>> files = data_dir_.ListBlobFiles();
  if (!files.ok()) return files.status();
  for (const BlobKey& id : *files) {
    if (known.contains(id) || IsMounted(id)) continue;
    if (absl::Status removed = files_.Remove(id); !removed.ok()) return removed;
    ++report_.orphans_removed;
  }
  return recipes_.RemoveStrangers(known);
}

void DiskStore::TakeUpWork() {
  for (const EntryPtr& entry : table_->All()) {
    std::lock_guard lock(entry->mutex);
    // The kernel's side may have been told of chunks by a predecessor that are not believed any more.
    if (entry->blob->refused() && entry->Told()) ++entry->revision;
    if (!entry->Told()) notifier_.Schedule(entry);
    // One that is settled gets a recipe, if none could be kept before.
    if (entry->Durable() && !(entry->Settled() && entry->record.root)) hasher_.Enqueue(entry->id);
  }
}

}  // namespace sluice::index
