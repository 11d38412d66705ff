#include "index/blob_lifecycle.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

absl::Status CheckSpec(const BlobSpec& spec) {
  if (spec.size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("blob ", spec.digest.ToString(),
                     " has size 0: the empty blob has nothing to fetch and is not stored"));
  }
  const auto name_ok = [](const std::string& name) {
    return !name.empty() && name.size() <= kOriginNameBytesMax;
  };
  for (const BlobOrigin& origin : spec.origins) {
    if (!name_ok(origin.registry) || !name_ok(origin.repository)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "blob ", spec.digest.ToString(), ": an origin's registry or repository is empty or longer than ",
          kOriginNameBytesMax, " bytes"));
    }
  }
  return ChunkGeometry::Validate(spec.size, spec.chunk_size);
}

absl::Status CheckAgrees(const BlobRecord& known, const BlobSpec& spec) {
  const std::string blob = absl::StrCat("blob ", spec.digest.ToString(), " is known with ");
  if (known.size != spec.size) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "size ", known.size, ", not ", spec.size));
  }
  if (known.chunk_size != spec.chunk_size) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "chunk size ", known.chunk_size, ", not ",
                                                   spec.chunk_size, "; evict it to change that"));
  }
  if (known.root && spec.root && *known.root != *spec.root) {
    return absl::InvalidArgumentError(absl::StrCat(blob, "another root"));
  }
  return absl::OkStatus();
}

void AddOrigins(const std::vector<BlobOrigin>& more, BlobRecord* record) {
  std::vector<BlobOrigin>& origins = record->origins;
  for (const BlobOrigin& origin : more) {
    if (origins.size() == kOriginsMax) return;
    if (std::find(origins.begin(), origins.end(), origin) != origins.end()) continue;
    origins.push_back(origin);
    record->access.push_back(OriginAccess::kUnknown);
  }
}

// What is known after `spec` was heard of.
BlobRecord Merged(BlobRecord record, const BlobSpec& spec) {
  record.size = spec.size;
  record.chunk_size = spec.chunk_size;
  if (!record.root) record.root = spec.root;
  AddOrigins(spec.origins, &record);
  return record;
}

// The same blob under a fuller spec.
std::shared_ptr<Blob> Renewed(const Blob& old, BlobSpec spec) {
  auto blob = std::make_shared<Blob>(std::move(spec));
  blob->presence().SetSlice(ChunkIndex(0), old.presence().Snapshot());
  blob->unverified_count() = old.unverified_count().load();
  if (old.refused()) blob->Refuse();
  return blob;
}

BlobSpec SpecOf(const EntryId& id, const BlobRecord& record) {
  return {id.digest(), record.size, record.chunk_size, record.root, record.origins};
}

}  // namespace

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::Open(const EntryId& id, const BlobSpec& spec) {
  if (absl::Status valid = CheckSpec(spec); !valid.ok()) return valid;
  if (const EntryPtr known = parts_.table.Find(id)) {
    std::lock_guard lock(known->mutex);
    if (absl::Status agrees = CheckAgrees(known->record, spec); !agrees.ok()) return agrees;
    if (!known->evicting && Merged(known->record, spec) == known->record) return known->blob;
  }
  std::unique_lock lock(mutex_);
  const auto is_leaving = [&] {
    const EntryPtr known = parts_.table.Find(id);
    if (!known) return false;
    std::lock_guard entry_lock(known->mutex);
    return known->evicting;
  };
  if (!eviction_ended_.wait_until(lock, std::chrono::steady_clock::now() + kEvictionWaitMax,
                                  [&] { return !is_leaving(); })) {
    return absl::UnavailableError(absl::StrCat(id.ToString(), " is being evicted; try again"));
  }
  const EntryPtr known = parts_.table.Find(id);
  return known ? Extend(*known, spec) : Register(id, spec);
}

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::Register(const EntryId& id, const BlobSpec& spec) {
  BlobRecord record = Merged(BlobRecord{}, spec);
  // What lies there may be the file of a mount that has outlived the index.
  const absl::StatusOr<FileIdentity> file = parts_.files.TakeOver(id, spec.size);
  if (!file.ok()) return file.status();
  record.file = *file;
  if (absl::Status put = parts_.log.PutRecord(id, record); !put.ok()) return put;
  auto blob = std::make_shared<Blob>(SpecOf(id, record));
  parts_.table.Insert(std::make_shared<BlobEntry>(id, blob, std::move(record)));
  return blob;
}

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::Extend(BlobEntry& entry, const BlobSpec& spec) {
  BlobRecord merged;
  {
    std::lock_guard lock(entry.mutex);
    if (absl::Status agrees = CheckAgrees(entry.record, spec); !agrees.ok()) return agrees;
    merged = Merged(entry.record, spec);
  }
  const absl::Status put = parts_.log.ChangeRecord(
      entry,
      [&](BlobRecord& record) {
        record.root = merged.root;
        AddOrigins(merged.origins, &record);
      },
      Durability::kOrdered);
  if (!put.ok()) return put;
  return parts_.table.ChangeBlob(entry, [&] {
    // A Blob's spec is constant. While somebody uses the old object, it keeps what it knows.
    if (entry.blob.use_count() == 1) entry.blob = Renewed(*entry.blob, SpecOf(entry.id, entry.record));
    return entry.blob;
  });
}

absl::Status BlobLifecycle::Evict(const EntryPtr& entry, EvictReason reason) {
  if (absl::Status begun = BeginEvict(entry, reason); !begun.ok()) return begun;
  // The kernel must ask before the file goes, for a hole that it reads unasked reads as zeros.
  absl::Status evicted = parts_.notifier.WaitTold(entry);
  if (evicted.ok()) evicted = FinishEvict(entry, reason);
  EndEviction(entry);
  return evicted;
}

absl::Status BlobLifecycle::BeginEvict(const EntryPtr& entry, EvictReason reason) {
  std::lock_guard turn(mutex_);
  std::lock_guard lock(entry->mutex);
  const std::string blob = entry->id.ToString();
  if (entry->evicting) return absl::FailedPreconditionError(absl::StrCat(blob, " is being evicted already"));
  if (const uint32_t leases = entry->blob->lease_count(); leases > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(blob, " is in use (", leases, " leases); unmount what uses it first"));
  }
  if (entry->record.pinned && reason != EvictReason::kCorrupt) {
    return absl::FailedPreconditionError(absl::StrCat(blob, " is pinned; unpin it first"));
  }
  entry->evicting = true;
  entry->TakeBackAll();
  parts_.notifier.Schedule(entry);
  return absl::OkStatus();
}

absl::Status BlobLifecycle::FinishEvict(const EntryPtr& entry, EvictReason reason) {
  std::lock_guard turn(mutex_);
  if (absl::Status deleted = DeleteRecord(entry); !deleted.ok()) return deleted;
  absl::Status removed = parts_.guard.Remove(entry);
  const absl::Status recipe = parts_.recipes.Remove(entry->id);
  if (removed.ok()) removed = recipe;
  {
    std::lock_guard lock(entry->mutex);
    parts_.telemetry.evicted_bytes[static_cast<size_t>(reason)].Add(entry->disk_bytes);
    parts_.usage.Measured(*entry, 0);
  }
  parts_.table.Erase(entry->id);
  parts_.data_dir.KeepReserve();
  return removed;
}

absl::Status BlobLifecycle::DeleteRecord(const EntryPtr& entry) {
  bool file_is_gone = false;
  return parts_.log.Delete(*entry, [&] {
    if (parts_.data_dir.ReleaseReserve()) return true;
    // As the last resort the file goes first. A crash before the record has gone leaves claims without a
    // file, which opening the store finds and drops.
    return !std::exchange(file_is_gone, true) && parts_.guard.Remove(entry).ok();
  });
}

void BlobLifecycle::EndEviction(const EntryPtr& entry) {
  std::lock_guard turn(mutex_);
  if (parts_.table.Find(entry->id) == entry) {
    // It did not come about. What it has taken back stays so.
    std::lock_guard lock(entry->mutex);
    entry->evicting = false;
  }
  eviction_ended_.notify_all();
}

}  // namespace sluice::index
