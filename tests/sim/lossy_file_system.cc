#include "tests/sim/lossy_file_system.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

namespace sluice::sim {
namespace {

namespace fs = std::filesystem;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

constexpr int kWellCalls = 100;  // more than opening the database makes

// The simulation itself must not fail.
void Check(bool done) {
  if (!done) std::abort();
}

IOStatus Failed(const std::string& name) {
  return IOStatus::IOError("the disk failed", name);
}

IOStatus Unused(const std::string& name) {
  return IOStatus::NotSupported("the simulated disk has no such call", name);
}

std::string WithoutSlash(std::string name) {
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  return name;
}

}  // namespace

class LossyFileSystem::WritableFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  WritableFile(LossyFileSystem& file_system, std::string name, FilePtr file,
               std::unique_ptr<rocksdb::FSWritableFile> target)
      : FSWritableFileOwnerWrapper(std::move(target)),
        file_system_(file_system),
        name_(std::move(name)),
        file_(std::move(file)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    ++file_system_.appends_;
    IOStatus called = file_system_.Call(name_);
    if (called.ok() && file_system_.disk_.Fires(file_system_.disk_.faults.full)) {
      called = IOStatus::NoSpace("the disk is full", name_);
      called.SetRetryable(true);
    }
    const size_t size = called.ok() ? data.size() : file_system_.random_.Below(data.size() + 1);
    if (size > 0) {
      const Slice written(data.data(), size);
      Check(FSWritableFileOwnerWrapper::Append(written, options, debug).ok());
      file_->unsynced.push_back({Change::Kind::kAppend, written.ToString()});
    }
    return called;
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus PositionedAppend(const Slice&, uint64_t, const IOOptions&, IODebugContext*) override {
    return Unused(name_);
  }
  IOStatus PositionedAppend(const Slice&, uint64_t, const IOOptions&, const rocksdb::DataVerificationInfo&,
                            IODebugContext*) override {
    return Unused(name_);
  }
  IOStatus Truncate(uint64_t, const IOOptions&, IODebugContext*) override { return Unused(name_); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return file_system_.Sync(name_, file_.get()); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return file_system_.Sync(name_, file_.get()); }

 private:
  LossyFileSystem& file_system_;
  const std::string name_;
  const FilePtr file_;
};

class LossyFileSystem::Directory final : public rocksdb::FSDirectory {
 public:
  Directory(LossyFileSystem& file_system, std::string name)
      : file_system_(file_system), name_(std::move(name)) {}

  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return file_system_.SyncDirectory(name_); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  LossyFileSystem& file_system_;
  const std::string name_;
};

LossyFileSystem::LossyFileSystem(LossyDisk& disk, Random& random)
    : FileSystemWrapper(FileSystem::Default()),
      disk_(disk),
      random_(random),
      thread_(std::this_thread::get_id()) {}

void LossyFileSystem::Begin(const std::string& directory) {
  directory_ = directory;
  if (fs::exists(directory)) return;
  names_.clear();
  durable_names_.clear();
  unsynced_names_.clear();
  directory_durable_ = false;
}

// -------------------------------------------------------------------------------------- losing and keeping

void LossyFileSystem::Apply(const Change& change, File* file) {
  if (change.kind == Change::Kind::kCutToNothing) file->durable.clear();
  file->durable += change.bytes;
}

void LossyFileSystem::Apply(const NameChange& change, Names* names) {
  if (!change.from.empty()) names->erase(change.from);
  if (!change.to.empty()) (*names)[change.to] = change.file;
}

void LossyFileSystem::Do(NameChange change) {
  Apply(change, &names_);
  unsynced_names_.push_back(std::move(change));
}

void LossyFileSystem::KeepSome(File* file) {
  const size_t kept = random_.Below(file->unsynced.size() + 1);
  for (size_t i = 0; i < kept; ++i) Apply(file->unsynced[i], file);
  if (kept == file->unsynced.size()) return;
  Change& torn = file->unsynced[kept];
  if (torn.kind != Change::Kind::kAppend) return;
  const size_t size = torn.bytes.size();
  torn.bytes.resize(random_.Below(size + 1));
  if (random_.Chance(50)) {
    torn.bytes.resize(size, '\0');
    left_zeros_ = true;
  }
  Apply(torn, file);
}

void LossyFileSystem::LosePower() {
  const bool all = random_.Chance(50);
  const size_t names_kept = all ? 0 : random_.Below(unsynced_names_.size() + 1);
  for (size_t i = 0; i < names_kept; ++i) Apply(unsynced_names_[i], &durable_names_);
  unsynced_names_.clear();
  if (!directory_durable_ && names_kept == 0) {
    durable_names_.clear();
    fs::remove_all(directory_);
  } else {
    directory_durable_ = true;
  }
  for (const auto& [name, file] : std::exchange(names_, durable_names_)) fs::remove(name);
  for (const auto& [name, file] : names_) {
    if (!all && !file->broken) KeepSome(file.get());
    file->unsynced.clear();
    file->broken = false;
    Check(static_cast<bool>(std::ofstream(name, std::ios::binary | std::ios::trunc) << file->durable));
  }
}

IOStatus LossyFileSystem::Call(const std::string& name) {
  Check(std::this_thread::get_id() == thread_);  // else no seed would replay
  if (!disk_.Alive()) return Failed(name);
  if (well_left_ > 0) {
    --well_left_;
  } else if (disk_.Fires(disk_.faults.index)) {
    if (random_.Chance(60)) well_left_ = kWellCalls;
    return Failed(name);
  }
  return IOStatus::OK();
}

IOStatus LossyFileSystem::CallForReading(const std::string& name) {
  Check(std::this_thread::get_id() == thread_);
  return disk_.dead() || disk_.Fires(disk_.faults.read) ? Failed(name) : IOStatus::OK();
}

IOStatus LossyFileSystem::Sync(const std::string& name, File* file) {
  const IOStatus called = Call(name);
  if (disk_.dead() || file->broken) return called;
  if (called.ok()) {
    for (const Change& change : file->unsynced) Apply(change, file);
  } else {
    KeepSome(file);
    file->broken = true;
  }
  file->unsynced.clear();
  return called;
}

IOStatus LossyFileSystem::SyncDirectory(const std::string& name) {
  if (IOStatus called = Call(name); !called.ok()) return called;
  if (name == fs::path(directory_).parent_path()) directory_durable_ = true;
  if (name != directory_) return IOStatus::OK();
  for (const NameChange& change : std::exchange(unsynced_names_, {})) Apply(change, &durable_names_);
  return IOStatus::OK();
}

// ----------------------------------------------------------------------------------------------- the calls

IOStatus LossyFileSystem::NewSequentialFile(const std::string& name, const rocksdb::FileOptions& options,
                                            std::unique_ptr<rocksdb::FSSequentialFile>* file,
                                            IODebugContext* debug) {
  if (IOStatus called = CallForReading(name); !called.ok()) return called;
  return target()->NewSequentialFile(name, options, file, debug);
}

IOStatus LossyFileSystem::NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                                              std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                              IODebugContext* debug) {
  if (IOStatus called = CallForReading(name); !called.ok()) return called;
  return target()->NewRandomAccessFile(name, options, file, debug);
}

IOStatus LossyFileSystem::NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                          std::unique_ptr<rocksdb::FSWritableFile>* file,
                                          IODebugContext* debug) {
  if (IOStatus called = Call(name); !called.ok()) return called;
  std::unique_ptr<rocksdb::FSWritableFile> target_file;
  if (IOStatus made = target()->NewWritableFile(name, options, &target_file, debug); !made.ok()) return made;
  if (const auto known = names_.find(name); known != names_.end()) {
    known->second->unsynced.push_back({Change::Kind::kCutToNothing, {}});
  } else {
    Do({"", name, std::make_shared<File>()});
  }
  *file = std::make_unique<WritableFile>(*this, name, names_.at(name), std::move(target_file));
  return IOStatus::OK();
}

IOStatus LossyFileSystem::NewDirectory(const std::string& name, const IOOptions&,
                                       std::unique_ptr<rocksdb::FSDirectory>* directory, IODebugContext*) {
  if (IOStatus called = CallForReading(name); !called.ok()) return called;
  *directory = std::make_unique<Directory>(*this, WithoutSlash(name));
  return IOStatus::OK();
}

IOStatus LossyFileSystem::CreateDirIfMissing(const std::string& name, const IOOptions& options,
                                             IODebugContext* debug) {
  if (IOStatus called = Call(name); !called.ok()) return called;
  return target()->CreateDirIfMissing(name, options, debug);
}

IOStatus LossyFileSystem::DeleteFile(const std::string& name, const IOOptions& options,
                                     IODebugContext* debug) {
  if (IOStatus called = Call(name); !called.ok()) return called;
  const IOStatus deleted = target()->DeleteFile(name, options, debug);
  if (deleted.ok() && names_.contains(name)) Do({name, "", nullptr});
  return deleted;
}

IOStatus LossyFileSystem::RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                                     IODebugContext* debug) {
  if (IOStatus called = Call(from); !called.ok()) return called;
  Check(names_.contains(from));
  const IOStatus renamed = target()->RenameFile(from, to, options, debug);
  if (renamed.ok()) Do({from, to, names_.at(from)});
  return renamed;
}

IOStatus LossyFileSystem::ReopenWritableFile(const std::string& name, const rocksdb::FileOptions&,
                                             std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return Unused(name);
}

IOStatus LossyFileSystem::ReuseWritableFile(const std::string& name, const std::string&,
                                            const rocksdb::FileOptions&,
                                            std::unique_ptr<rocksdb::FSWritableFile>*, IODebugContext*) {
  return Unused(name);
}

IOStatus LossyFileSystem::NewRandomRWFile(const std::string& name, const rocksdb::FileOptions&,
                                          std::unique_ptr<rocksdb::FSRandomRWFile>*, IODebugContext*) {
  return Unused(name);
}

IOStatus LossyFileSystem::Truncate(const std::string& name, size_t, const IOOptions&, IODebugContext*) {
  return Unused(name);
}

IOStatus LossyFileSystem::LinkFile(const std::string& from, const std::string&, const IOOptions&,
                                   IODebugContext*) {
  return Unused(from);
}

}  // namespace sluice::sim
