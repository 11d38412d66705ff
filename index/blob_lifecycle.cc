#include "index/blob_lifecycle.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "index/claims.h"

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

// Of a blob that was hashed whole.
absl::Status CheckProvenSize(const BlobRecord& known, const BlobSpec& spec) {
  if (!known.proven || known.size == spec.size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("blob ", spec.digest.ToString(), " has ", known.size,
                                                 " bytes, as its digest has proven, not ", spec.size));
}

BlobRecord RecordOf(const BlobKey& key, const BlobSpec& spec) {
  BlobRecord record;
  if (!key.IsOf(spec.digest)) record.digest = spec.digest;
  record.size = spec.size;
  record.chunk_size = spec.chunk_size;
  Learn(spec, &record);
  return record;
}

// Whether `spec` says nothing new. REQUIRES: entry.mutex is held
bool Knows(const BlobEntry& entry, const BlobSpec& spec) {
  if (entry.evicting || !MayShare(entry.record, entry.blob->unverified_count(), spec)) return false;
  BlobRecord learned = entry.record;
  Learn(spec, &learned);
  return learned == entry.record;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::Open(const BlobSpec& spec) {
  if (absl::Status valid = CheckSpec(spec); !valid.ok()) return valid;
  if (const absl::StatusOr<EntryPtr> known = Choose(spec); known.ok() && *known) {
    std::lock_guard lock((*known)->mutex);
    if (Knows(**known, spec)) return (*known)->blob;
  }
  std::unique_lock lock(mutex_);
  if (!eviction_ended_.wait_until(lock, std::chrono::steady_clock::now() + kEvictionWaitMax,
                                  [&] { return !IsLeaving(spec.digest); })) {
    return absl::UnavailableError(
        absl::StrCat("blob ", spec.digest.ToString(), " is being evicted; try again"));
  }
  // What may be shared can be changed by a commit meanwhile, once.
  for (int attempt = 0; attempt < 2; ++attempt) {
    const absl::StatusOr<EntryPtr> chosen = Choose(spec);
    if (!chosen.ok()) return chosen.status();
    if (!*chosen) break;
    const absl::Status extended = Extend(*chosen, spec);
    if (extended.ok()) return (*chosen)->blob;
    if (!absl::IsAborted(extended)) return extended;
  }
  const absl::StatusOr<BlobKey> key = FreeKey(spec);
  if (!key.ok()) return key.status();
  return Register(*key, spec);
}

// Neither kept nor that of a file which a mount reads that could not be taken up.
absl::StatusOr<BlobKey> BlobLifecycle::FreeKey(const BlobSpec& spec) const {
  size_t hearsay = 0;
  const std::vector<EntryPtr> claims = parts_.table.FindAll(spec.digest);
  for (const EntryPtr& entry : claims) {
    std::lock_guard lock(entry->mutex);
    if (entry->record.is_hearsay) ++hearsay;
  }
  // What other nodes say leaves room for what manifests say.
  if (claims.size() >= kClaimsMax || (spec.is_hearsay && hearsay >= kHearsayMax)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(claims.size(), " different things are claimed of blob ", spec.digest.ToString(),
                     " already; evict it, which drops those that nobody uses"));
  }
  const auto is_free = [&](const BlobKey& key) {
    return !parts_.table.Find(key) && (!parts_.is_mounted(key) || released_.contains(key));
  };
  BlobKey key(spec.digest);
  for (uint32_t salt = 0; !is_free(key); ++salt) key = KeyBeside(spec, salt);
  return key;
}

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::OpenAs(const BlobKey& key, const BlobSpec& spec) {
  if (absl::Status valid = CheckSpec(spec); !valid.ok()) return valid;
  std::unique_lock lock(mutex_);
  if (!eviction_ended_.wait_until(lock, std::chrono::steady_clock::now() + kEvictionWaitMax,
                                  [&] { return !IsLeaving(spec.digest); })) {
    return absl::UnavailableError(
        absl::StrCat("blob ", spec.digest.ToString(), " is being evicted; try again"));
  }
  const EntryPtr known = parts_.table.Find(key);
  if (!known) return Register(key, spec);
  const ChunkGeometry& geometry = known->blob->geometry();
  if (known->blob->digest() != spec.digest || geometry.size() != spec.size ||
      geometry.chunk_size() != spec.chunk_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        known->Name(), " is known with other facts than the mount's: unmount it and mount it again"));
  }
  if (absl::Status extended = ExtendMounted(known, spec); !extended.ok()) return extended;
  return known->blob;
}

// The entry that the readers of `spec` share; null if none is for them.
absl::StatusOr<EntryPtr> BlobLifecycle::Choose(const BlobSpec& spec) const {
  EntryPtr chosen;
  for (const EntryPtr& entry : parts_.table.FindAll(spec.digest)) {
    std::lock_guard lock(entry->mutex);
    if (absl::Status fits = CheckProvenSize(entry->record, spec); !fits.ok()) return fits;
    if (!MayShare(entry->record, entry->blob->unverified_count(), spec)) continue;
    if (entry->record.proven && !entry->blob->refused()) return entry;
    if (!chosen) chosen = entry;
  }
  return chosen;
}

bool BlobLifecycle::IsLeaving(const Digest& digest) const {
  for (const EntryPtr& entry : parts_.table.FindAll(digest)) {
    std::lock_guard lock(entry->mutex);
    if (entry->evicting) return true;
  }
  return false;
}

absl::StatusOr<std::shared_ptr<Blob>> BlobLifecycle::Register(const BlobKey& key, const BlobSpec& spec) {
  BlobRecord record = RecordOf(key, spec);
  // What lies there may be the file of a mount that has outlived the index.
  const absl::StatusOr<FileIdentity> file = parts_.files.TakeOver(key, spec.size);
  if (!file.ok()) return file.status();
  record.file = *file;
  if (absl::Status put = parts_.log.PutRecord(key, record); !put.ok()) return put;
  const auto entry = std::make_shared<BlobEntry>(std::make_shared<Blob>(key, FactsOf(spec.digest, record)),
                                                 std::move(record));
  parts_.table.Insert(entry);
  return entry->blob;
}

absl::Status BlobLifecycle::RegisterWhole(const Digest& digest, BlobRecord record,
                                          const std::function<absl::StatusOr<FileIdentity>()>& take_file,
                                          const std::optional<RecipeMaker::Made>& recipe) {
  const BlobKey key(digest);
  const std::lock_guard turn(mutex_);
  if (IsKept(digest) || (parts_.is_mounted(key) && !released_.contains(key)))
    return absl::AlreadyExistsError(absl::StrCat(key.ToString(), " is known"));
  const absl::StatusOr<FileIdentity> file = take_file();
  if (!file.ok()) return file.status();
  record.file = *file;
  absl::Status put = recipe ? parts_.recipes.Put(key, recipe->recipe) : absl::OkStatus();
  // What is claimed must not be lost with the name of its file.
  if (put.ok() && !file->is_in_place()) put = parts_.files.SyncNames();
  EntryPtr entry;
  if (put.ok()) {
    const std::optional<Digest> root = recipe ? std::optional(recipe->root) : std::nullopt;
    entry =
        std::make_shared<BlobEntry>(std::make_shared<Blob>(key, FactsOf(digest, record)), std::move(record));
    {
      const std::lock_guard lock(entry->mutex);
      const ChunkSpan all = entry->blob->geometry().All();
      entry->claimed.Add(all);
      entry->blob->presence().SetSlice(all.first, entry->claimed);
    }
    put = parts_.log.ClaimVerifiedWhole(*entry, entry->revision, root);
  }
  if (put.ok()) {
    parts_.table.Insert(entry);
    return put;
  }
  parts_.recipes.Remove(key).IgnoreError();
  if (!file->is_in_place()) parts_.files.Remove(key).IgnoreError();
  return put;
}

// Errors: Aborted (it may not be shared), and those of the index.
absl::Status BlobLifecycle::Extend(const EntryPtr& entry, const BlobSpec& spec) {
  {
    std::lock_guard lock(entry->mutex);
    if (Knows(*entry, spec)) return absl::OkStatus();
  }
  bool may_share = false, decided = false, changed = false;
  // Called twice, and a commit may come in between: then the index does not say the same, and is told again.
  const auto learn = [&](BlobRecord& record) {
    const bool before = std::exchange(may_share, MayShare(record, entry->blob->unverified_count(), spec));
    changed = std::exchange(decided, true) && before != may_share;
    if (may_share) Learn(spec, &record);
  };
  if (absl::Status put = parts_.log.ChangeRecord(*entry, learn, Durability::kOrdered); !put.ok()) return put;
  std::lock_guard lock(entry->mutex);
  const bool had_root = entry->blob->facts()->root.has_value();
  entry->blob->SetFacts(entry->Facts());
  if (!had_root && entry->record.root && entry->blob->unverified_count() > 0) parts_.check(entry->id);
  entry->record_changed = entry->record_changed || changed;
  return may_share ? absl::OkStatus() : absl::AbortedError("it may not be shared");
}

// What the mount's readers read is this file, so its repository is among those that what is not proven is
// kept from.
absl::Status BlobLifecycle::ExtendMounted(const EntryPtr& entry, const BlobSpec& spec) {
  const auto learned = [&](BlobRecord record) {
    LearnMounted(spec, &record);
    return record;
  };
  {
    std::lock_guard lock(entry->mutex);
    if (learned(entry->record) == entry->record) return absl::OkStatus();
  }
  const absl::Status put = parts_.log.ChangeRecord(
      *entry, [&](BlobRecord& record) { record = learned(record); }, Durability::kOrdered);
  if (!put.ok()) return put;
  std::lock_guard lock(entry->mutex);
  entry->blob->SetFacts(entry->Facts());
  return put;
}

absl::Status BlobLifecycle::ForgetOrigin(BlobEntry& entry, const BlobOrigin& origin) {
  const std::lock_guard turn(mutex_);
  const absl::Status put = parts_.log.ChangeRecord(
      entry, [&](BlobRecord& record) { Unlearn(origin, &record); }, Durability::kOrdered);
  if (!put.ok()) return put;
  const std::lock_guard lock(entry.mutex);
  entry.blob->SetFacts(entry.Facts());
  return put;
}

absl::Status BlobLifecycle::Evict(const EntryPtr& entry, EvictReason reason) {
  if (absl::Status begun = BeginEvict(entry, reason); !begun.ok()) return begun;
  // Its file's room is given back when nobody has it open any more.
  parts_.stop_hashing(entry->id);
  // The kernel must ask before the file goes, for a hole that it reads unasked reads as zeros.
  absl::Status evicted = parts_.notifier.WaitTold(entry);
  if (evicted.ok()) evicted = FinishEvict(entry, reason);
  EndEviction(entry);
  return evicted;
}

absl::Status BlobLifecycle::BeginEvict(const EntryPtr& entry, EvictReason reason) {
  std::lock_guard turn(mutex_);
  std::lock_guard lock(entry->mutex);
  const std::string blob = entry->Name();
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
  if (parts_.is_mounted(entry->id)) released_.insert(entry->id);
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
