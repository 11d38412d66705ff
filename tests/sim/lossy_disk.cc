#include "tests/sim/lossy_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "index/file_descriptor.h"

namespace sluice::sim {
namespace {

constexpr size_t kPageBytes = 4096;  // a torn write ends at one of these

int Fail(int error) {
  errno = error;
  return -1;
}

ino_t InodeOfFile(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// The simulation itself must not fail.
void Check(bool done) {
  if (!done) std::abort();
}

}  // namespace

bool LossyDisk::Alive() {
  if (!quiet && calls_left_ >= 0 && calls_left_-- == 0) dead_ = true;
  return !dead_;
}

bool LossyDisk::Fires(int percent) {
  if (quiet || !random_.Chance(percent)) return false;
  ++faults_fired;
  return true;
}

void LossyDisk::Revive() {
  dead_ = false;
  calls_left_ = -1;
}

void LossyDisk::Apply(const Change& change, File* file) {
  switch (change.kind) {
    case Change::Kind::kSize:
      return file->durable.resize(change.offset);
    case Change::Kind::kMark:
      file->durable_mark = change.mark;
      return;
    case Change::Kind::kBytes:
      file->durable.resize(std::max<size_t>(file->durable.size(), change.offset + change.bytes.size()));
      std::copy(change.bytes.begin(), change.bytes.end(),
                file->durable.begin() + static_cast<std::ptrdiff_t>(change.offset));
  }
}

void LossyDisk::Apply(const NameChange& change, Names* names) {
  if (change.inode == 0) {
    names->erase(change.name);
  } else {
    (*names)[change.name] = change.inode;
  }
}

// Some of the bytes reach the disk, `all` are lost, or whole writes in between are torn.
void LossyDisk::LoseBytes(File* file, bool all) {
  for (Change& change : std::exchange(file->unsynced, {})) {
    if (all || random_.Chance(50)) continue;
    if (change.kind == Change::Kind::kBytes && random_.Chance(30)) {
      change.bytes.resize(random_.Below(change.bytes.size() / kPageBytes + 1) * kPageBytes);
    }
    Apply(change, file);
  }
}

void LossyDisk::LosePower() {
  const bool all = random_.Chance(50);
  const size_t names_kept = all ? 0 : random_.Below(unsynced_names_.size() + 1);
  for (size_t i = 0; i < names_kept; ++i) Apply(unsynced_names_[i], &durable_names_);
  unsynced_names_.clear();
  for (const auto& [name, inode] : std::exchange(names_, durable_names_)) {
    Check(::rename(PathOf(name).c_str(), TrashOf(inode).c_str()) == 0);
  }
  std::map<ino_t, File> kept;
  for (const auto& [name, inode] : durable_names_) {
    File file = std::move(files_[inode]);
    LoseBytes(&file, all);
    file.mark = file.durable_mark;
    Check(::rename(TrashOf(inode).c_str(), PathOf(name).c_str()) == 0);
    WriteBack(PathOf(name), file);
    files_.erase(inode);
    kept.emplace(inode, std::move(file));
  }
  for (const auto& [inode, file] : std::exchange(files_, std::move(kept))) {
    Check(::unlink(TrashOf(inode).c_str()) == 0);
  }
  Revive();
}

void LossyDisk::WriteBack(const std::string& path, const File& file) const {
  const index::FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  Check(fd.valid() && ::ftruncate(fd.get(), 0) == 0);
  const ssize_t count = ::pwrite(fd.get(), file.durable.data(), file.durable.size(), 0);
  Check(count == static_cast<ssize_t>(file.durable.size()));
}

bool LossyDisk::IsOurs(int directory) {
  struct stat status {};
  if (directory_inode_ == 0 && ::stat(directory_.c_str(), &status) == 0) directory_inode_ = status.st_ino;
  return InodeOfFile(directory) == directory_inode_;
}

LossyDisk::File& LossyDisk::FileOf(int fd) {
  const auto found = files_.find(InodeOfFile(fd));
  Check(found != files_.end());
  return found->second;
}

uint64_t LossyDisk::InodeOf(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? 0 : found->second;
}

std::string LossyDisk::NameOf(int fd) const {
  const ino_t inode = InodeOfFile(fd);
  for (const auto& [name, named] : names_) {
    if (named == inode) return name;
  }
  return {};
}

void LossyDisk::RemoveByStranger(const std::string& name) {
  if (names_.contains(name)) Remove(name);
}

void LossyDisk::Remove(const std::string& name) {
  const ino_t inode = names_.at(name);
  // Not really: a power loss may bring it back.
  Check(::rename(PathOf(name).c_str(), TrashOf(inode).c_str()) == 0);
  names_.erase(name);
  unsynced_names_.push_back({name, 0});
}

int LossyDisk::Open(int directory, const std::string& name, int flags) {
  if (!Alive()) return Fail(EIO);
  if (Fires(faults.open)) return Fail(EMFILE);
  const int fd = StoreFileSystem::Open(directory, name, flags);
  if (fd < 0 || !IsOurs(directory)) return fd;
  if (const ino_t inode = InodeOfFile(fd); files_.try_emplace(inode).second) {
    names_[name] = inode;
    unsynced_names_.push_back({name, inode});
  }
  return fd;
}

ssize_t LossyDisk::Pread(int fd, void* bytes, size_t size, off_t offset) {
  if (hooks.while_reading && !quiet && !dead_) hooks.while_reading();
  if (!Alive() || Fires(faults.read)) return Fail(EIO);
  return StoreFileSystem::Pread(fd, bytes, size, offset);
}

ssize_t LossyDisk::Pwrite(int fd, const void* bytes, size_t size, off_t offset) {
  if (dead_) return Fail(EIO);
  const auto first = static_cast<uint64_t>(offset);
  if (hooks.before_write) hooks.before_write(NameOf(fd), InodeOfFile(fd), {first, size});
  const bool alive = Alive();
  const bool fails = !alive || Fires(faults.write);
  if (fails || Fires(faults.short_write)) size = random_.Below(size + 1);
  if (size > 0) {
    const auto* const start = static_cast<const std::byte*>(bytes);
    Check(StoreFileSystem::Pwrite(fd, bytes, size, offset) == static_cast<ssize_t>(size));
    FileOf(fd).unsynced.push_back({Change::Kind::kBytes, first, {start, start + size}, {}});
  }
  return fails ? Fail(EIO) : static_cast<ssize_t>(size);
}

int LossyDisk::Reserve(int fd, off_t offset, off_t size) {
  if (!Alive()) return Fail(EIO);
  if (Fires(faults.full)) return Fail(ENOSPC);
  return StoreFileSystem::Reserve(fd, offset, size);
}

int LossyDisk::Truncate(int fd, off_t size) {
  if (!Alive()) return Fail(EIO);
  FileOf(fd).unsynced.push_back({Change::Kind::kSize, static_cast<uint64_t>(size), {}, {}});
  return StoreFileSystem::Truncate(fd, size);
}

int LossyDisk::SyncData(int fd) {
  if (hooks.while_syncing && !quiet && !dead_) hooks.while_syncing();
  if (!Alive()) return Fail(EIO);
  File& file = FileOf(fd);
  const bool fails = Fires(faults.sync);
  for (const Change& change : std::exchange(file.unsynced, {})) {
    // Names, sizes and marks are in the file system's journal, and tried again.
    if (fails && change.kind != Change::Kind::kBytes) file.unsynced.push_back(change);
    if (!fails || (change.kind == Change::Kind::kBytes && random_.Chance(50))) Apply(change, &file);
  }
  return fails ? Fail(EIO) : 0;
}

int LossyDisk::SyncDirectory(int directory) {
  if (hooks.while_syncing && !quiet && !dead_) hooks.while_syncing();
  if (!Alive() || Fires(faults.sync)) return Fail(EIO);
  if (!IsOurs(directory)) return 0;
  for (const NameChange& change : std::exchange(unsynced_names_, {})) Apply(change, &durable_names_);
  return 0;
}

int LossyDisk::Unlink(int directory, const std::string& name) {
  if (!Alive()) return Fail(EIO);
  if (!IsOurs(directory)) return StoreFileSystem::Unlink(directory, name);
  if (!names_.contains(name)) return Fail(ENOENT);
  if (hooks.before_unlink) hooks.before_unlink(name, names_.at(name));
  if (Fires(faults.write)) return Fail(EIO);
  Remove(name);
  return 0;
}

int LossyDisk::ReplaceFile(int directory, const std::string& name, std::span<const std::byte> contents) {
  if (!Alive()) return Fail(EIO);
  return StoreFileSystem::ReplaceFile(directory, name, contents);
}

int LossyDisk::SetMark(int fd, std::span<const uint8_t> mark) {
  if (!Alive()) return Fail(EIO);
  File& file = FileOf(fd);
  file.mark.assign(mark.begin(), mark.end());
  file.unsynced.push_back({Change::Kind::kMark, 0, {}, file.mark});
  return 0;
}

ssize_t LossyDisk::GetMark(int fd, std::span<uint8_t> mark) {
  if (!Alive()) return Fail(EIO);
  const File& file = FileOf(fd);
  if (file.mark.empty() || file.mark.size() > mark.size()) return Fail(ENODATA);
  std::copy(file.mark.begin(), file.mark.end(), mark.begin());
  return static_cast<ssize_t>(file.mark.size());
}

}  // namespace sluice::sim
