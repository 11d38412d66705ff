#include "index/file_guard.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {

absl::Status RefusedBlob(const std::string& name) {
  return absl::DataLossError(
      absl::StrCat(name,
                   " is refused: its bytes are not what its digest promises, or its "
                   "file was lost while in use; unmount and evict it to fetch it anew"));
}

absl::Status EvictedBlob(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(name, " was evicted meanwhile; open it again"));
}

absl::StatusOr<FileGuard::Known> FileGuard::FileOf(const EntryPtr& entry) {
  // A second time if the file is made anew between.
  for (int attempt = 0; attempt < 2; ++attempt) {
    {
      std::lock_guard lock(entry->mutex);
      if (entry->evicting) return EvictedBlob(entry->Name());
      if (entry->blob->refused()) return RefusedBlob(entry->Name());
      if (entry->record.file) {
        return Known{*entry->record.file, entry->record.size, entry->write_epoch, entry->revision};
      }
    }
    if (absl::Status made = MakeAnew(entry); !made.ok()) return made;
  }
  return absl::UnavailableError(
      absl::StrCat("the file of ", entry->Name(), " is lost again and again; try again"));
}

absl::StatusOr<FileGuard::Opened> FileGuard::OpenForWrite(const EntryPtr& entry) {
  const absl::StatusOr<Known> known = FileOf(entry);
  if (!known.ok()) return known.status();
  absl::StatusOr<BlobFdCache::Fd> fd = parts_.files.OpenForWrite(entry->id, known->file);
  if (fd.ok()) return Opened{*std::move(fd), known->write_epoch, known->revision};
  if (!absl::IsNotFound(fd.status())) return fd.status();
  Lose(entry, known->file);
  return absl::UnavailableError(absl::StrCat("the file of ", entry->Name(),
                                             " was removed or replaced by somebody else; it is made anew"));
}

absl::StatusOr<FileDescriptor> FileGuard::OpenForRead(const EntryPtr& entry) {
  const absl::StatusOr<Known> known = FileOf(entry);
  if (!known.ok()) return known.status();
  absl::StatusOr<FileDescriptor> fd = parts_.files.OpenForRead(entry->id, known->file, known->size);
  if (!absl::IsNotFound(fd.status())) return fd;
  Lose(entry, known->file);
  return absl::DataLossError(absl::StrCat("the file of ", entry->Name(),
                                          " was removed or cut short by somebody else; read it again"));
}

absl::Status FileGuard::CheckSynced(const EntryPtr& entry, int fd) {
  std::optional<FileIdentity> file;
  uint64_t size = 0;
  {
    std::lock_guard lock(entry->mutex);
    file = entry->record.file;
    size = entry->record.size;
  }
  if (file && parts_.files.IsFile(entry->id, *file, size, fd)) {
    // Under the lock, so that what is reserved meanwhile is either counted by this or added to it.
    std::lock_guard lock(entry->mutex);
    if (entry->record.file == file) parts_.usage.Measured(*entry, BlobFiles::AllocatedBytes(fd));
    return absl::OkStatus();
  }
  if (file) Lose(entry, *file);
  return absl::UnavailableError(
      absl::StrCat("the file of ", entry->Name(), " was removed, replaced or cut short by somebody else"));
}

size_t FileGuard::CheckAll(std::span<const EntryPtr> entries) {
  size_t lost = 0;
  for (const EntryPtr& entry : entries) {
    std::optional<FileIdentity> file;
    uint64_t size = 0;
    {
      std::lock_guard lock(entry->mutex);
      if (entry->evicting || entry->blob->refused()) continue;
      file = entry->record.file;
      size = entry->record.size;
    }
    if (!file || parts_.files.HasName(entry->id, *file, size)) continue;
    Lose(entry, *file);
    ++lost;
  }
  return lost;
}

void FileGuard::Lose(const EntryPtr& entry, const FileIdentity& file) {
  const std::string what =
      absl::StrCat("the file of ", entry->Name(), " was removed, replaced or cut short by somebody else");
  bool leased = false;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->evicting || entry->record.file != file) return;
    leased = entry->blob->file_lease_count() > 0;
    if (!leased) {
      entry->ForgetFile();
      parts_.usage.Measured(*entry, 0);
      parts_.notifier.Schedule(entry);
    }
  }
  if (leased) {
    Refuse(entry, BlobState::kLost, what);
    return;
  }
  // Whose file it is may take it away when he likes.
  if (!file.is_in_place()) Alarm(absl::StrCat(what, "; its chunks will be fetched again"));
  if (absl::Status made = MakeAnew(entry); !made.ok()) Alarm(std::string(made.message()));
}

void FileGuard::MakeOwn(const EntryPtr& entry) {
  std::optional<FileIdentity> file;
  {
    std::lock_guard lock(entry->mutex);
    file = entry->record.file;
  }
  if (file && file->is_in_place()) Lose(entry, *file);
}

absl::Status FileGuard::Remove(const EntryPtr& entry) {
  std::lock_guard make_lock(make_mutex_);
  return parts_.files.Remove(entry->id);
}

absl::Status FileGuard::MakeAnew(const EntryPtr& entry) {
  std::lock_guard make_lock(make_mutex_);
  uint64_t size = 0;
  {
    std::lock_guard lock(entry->mutex);
    if (entry->evicting) return EvictedBlob(entry->Name());
    if (entry->record.file) return absl::OkStatus();
    size = entry->record.size;
  }
  // In this order: over a new file, the old claims would be lies.
  if (absl::Status dropped = parts_.log.Drop(*entry); !dropped.ok()) return dropped;
  const absl::StatusOr<FileIdentity> file = parts_.files.Make(entry->id, size);
  if (!file.ok()) return file.status();
  std::lock_guard lock(entry->mutex);
  if (entry->evicting) return EvictedBlob(entry->Name());
  entry->SetFile(*file);
  return absl::OkStatus();
}

void FileGuard::Refuse(const EntryPtr& entry, BlobState state, const std::string& why) {
  {
    std::lock_guard lock(entry->mutex);
    if (entry->evicting || entry->blob->refused()) return;
    entry->blob->Refuse();
    entry->TakeBackAll();
    entry->record.state = state;
    parts_.notifier.Schedule(entry);
  }
  Alarm(absl::StrCat(why, "; ", entry->Name(),
                     " is refused from now on: unmount and evict it to fetch it anew"));
  const absl::Status written = parts_.log.DropAll(*entry);
  parts_.telemetry.blobs_refused.Add();  // not before: whoever has seen the count may kill the node
  if (written.ok()) return;
  Alarm(absl::StrCat("the refusal of ", entry->Name(), " is not recorded: ", written.message()));
}

}  // namespace sluice::index
