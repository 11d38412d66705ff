#include "index/chunk_writer.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "index/disk_error.h"

namespace sluice::index {
namespace {

std::string WhatOf(const EntryPtr& entry, ChunkIndex index) {
  return absl::StrCat("chunk ", index.value(), " of ", entry->Name());
}

}  // namespace

absl::Status ChunkWriter::Commit(const EntryPtr& entry, Blob& blob, ChunkIndex index,
                                 std::span<const std::byte> bytes, Evidence evidence) {
  const Chunk chunk{entry, blob, index, bytes, evidence};
  std::lock_guard stripe(StripeOf(entry->id, index));
  bool present = false;
  {
    std::lock_guard lock(entry->mutex);
    if (absl::Status writable = entry->CheckWritable(blob, evidence); !writable.ok()) return writable;
    present = blob.presence().IsPresent(index);
    if (present && (evidence == Evidence::kUnverified || entry->verified.Has(index))) return absl::OkStatus();
  }
  if (parts_.syncer.IsFull()) {
    return absl::UnavailableError("too many blobs wait for the disk to sync; try again");
  }
  const absl::StatusOr<FileGuard::Opened> file = parts_.guard.OpenForWrite(entry);
  if (!file.ok()) return file.status();
  if (present) {
    if (RaiseEvidence(chunk, *file)) return absl::OkStatus();
    if (absl::Status revoked = Revoke(entry, blob, index); !revoked.ok()) return revoked;
  }
  return Write(chunk, *file);
}

bool ChunkWriter::RaiseEvidence(const Chunk& chunk, const FileGuard::Opened& file) {
  if (!HoldsBytes(file.fd->get(), chunk.range(), chunk.bytes)) return false;
  {
    std::lock_guard lock(chunk.entry->mutex);
    if (chunk.entry->revision != file.revision || !chunk.blob.presence().IsPresent(chunk.index)) return false;
    chunk.entry->AddVerified(chunk.index, file.fd);
  }
  parts_.syncer.Queue(chunk.entry, 0);
  return true;
}

absl::Status ChunkWriter::Write(const Chunk& chunk, const FileGuard::Opened& file) {
  absl::Status written = MakeSafeToWrite(chunk);
  if (!written.ok()) return written;
  written = MakeRoom(chunk, file.fd->get());
  if (written.ok())
    written = WriteFully(parts_.file_system, file.fd->get(), chunk.range().offset, chunk.bytes);
  if (!written.ok()) {
    return absl::Status(written.code(),
                        absl::StrCat("write ", WhatOf(chunk.entry, chunk.index), ": ", written.message()));
  }
  {
    std::lock_guard lock(chunk.entry->mutex);
    if (absl::Status writable = chunk.entry->CheckWritable(chunk.blob, chunk.evidence); !writable.ok())
      return writable;
    if (chunk.entry->write_epoch != file.write_epoch) {
      return absl::UnavailableError(
          absl::StrCat(WhatOf(chunk.entry, chunk.index),
                       " was written while the disk or its file failed; fetch it again"));
    }
    chunk.entry->AddWritten(chunk.index, chunk.evidence, file.fd);
  }
  parts_.syncer.Queue(chunk.entry, chunk.bytes.size());
  return absl::OkStatus();
}

absl::Status ChunkWriter::MakeSafeToWrite(const Chunk& chunk) {
  bool claimed = false;
  bool told = false;
  {
    std::lock_guard lock(chunk.entry->mutex);
    claimed = chunk.entry->claimed.Has(chunk.index);
    told = chunk.entry->Told();
  }
  // Bytes under a claim must not change: a crash in the midst of it would make the claim a lie.
  if (claimed) {
    if (absl::Status dropped = parts_.log.Drop(*chunk.entry); !dropped.ok()) return dropped;
  }
  return told ? absl::OkStatus() : parts_.notifier.WaitTold(chunk.entry);
}

absl::Status ChunkWriter::MakeRoom(const Chunk& chunk, int fd) {
  const ChunkGeometry& geometry = chunk.blob.geometry();
  ChunkSpan room;
  {
    std::lock_guard lock(chunk.entry->mutex);
    room = chunk.entry->room.Plan(geometry, chunk.blob.presence(), chunk.index);
  }
  if (room.count == 0) return absl::OkStatus();
  const absl::Status reserved = Reserve(fd, geometry.RangeOf(room));
  {
    std::lock_guard lock(chunk.entry->mutex);
    if (reserved.ok()) {
      chunk.entry->room.Reserved(geometry, room);
      parts_.usage.Reserved(*chunk.entry, geometry.RangeOf(room).length);
    } else {
      chunk.entry->room.Failed(geometry, room);
    }
  }
  // What was to be reserved for later chunks may be what there is no space for.
  return reserved.ok() || room.count == 1 ? reserved : Reserve(fd, chunk.range());
}

absl::Status ChunkWriter::Reserve(int fd, ByteRange range) {
  while (reserve_works_ && parts_.file_system.Reserve(fd, static_cast<off_t>(range.offset),
                                                      static_cast<off_t>(range.length)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return WriteError(errno, "reserve space");
    reserve_works_ = false;  // then a lack of space shows in the write
  }
  return absl::OkStatus();
}

bool ChunkWriter::HoldsBytes(int fd, ByteRange range, std::span<const std::byte> bytes) const {
  std::vector<std::byte> found(range.length);
  return ReadFully(parts_.file_system, fd, range.offset, found).ok() &&
         std::equal(found.begin(), found.end(), bytes.begin(), bytes.end());
}

absl::Status ChunkWriter::Revoke(const EntryPtr& entry, Blob& blob, ChunkIndex index) {
  {
    std::lock_guard lock(entry->mutex);
    if (entry->blob.get() != &blob) return EvictedBlob(entry->Name());
    entry->TakeBack(index);
    parts_.notifier.Schedule(entry);
  }
  const absl::Status dropped = parts_.log.Drop(*entry);
  const absl::Status told = parts_.notifier.WaitTold(entry);
  return dropped.ok() ? told : dropped;
}

std::mutex& ChunkWriter::StripeOf(const BlobKey& id, ChunkIndex index) {
  return stripes_[absl::HashOf(id, index) % stripes_.size()];
}

}  // namespace sluice::index
