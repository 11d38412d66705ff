#pragma once

#include <rocksdb/file_system.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/sim/lossy_disk.h"
#include "tests/sim/random.h"

namespace sluice::sim {

// What RocksDB keeps its files on: the same disk as LossyDisk, with its life, its death and its faults. Over
// a power loss it keeps what was synced, and of the rest what the seed says: of each file a part from its
// start on, at times with zeros behind it (a file system may note the size before the bytes are there), of
// the names those that were made first. Beneath it lie real files, which hold what the page cache would.
//
// What could not be synced never reaches the disk, nor what is appended after it, though a later sync says
// so. Names that could not be synced are tried again by the next sync, as by a file system's journal.
//
// REQUIRES: one database, whose calls all come on one thread
class LossyFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  // REQUIRES: both outlive this
  LossyFileSystem(LossyDisk& disk, Random& random);

  const char* Name() const override { return "LossyFileSystem"; }

  // The database is about to be opened; its directory may have been moved away before.
  void Begin(const std::string& directory);
  // The machine starts again. REQUIRES: no file is open
  void LosePower();
  // Whether a power loss has put zeros in the place of bytes that were not synced, since this was false last.
  bool left_zeros() const { return left_zeros_; }
  void ForgetZeros() { left_zeros_ = false; }
  // How many appends have come, those that failed too.
  uint64_t appends() const { return appends_; }

  rocksdb::IOStatus NewSequentialFile(const std::string& name, const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSSequentialFile>* file,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewDirectory(const std::string& name, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* directory,
                                 rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus CreateDirIfMissing(const std::string& name, const rocksdb::IOOptions& options,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options, rocksdb::IODebugContext* debug) override;

  // What RocksDB has no need of as the index uses it is not supported.
  rocksdb::IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* file,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReuseWritableFile(const std::string& name, const std::string& old_name,
                                      const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSWritableFile>* file,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomRWFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSRandomRWFile>* file,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus Truncate(const std::string& name, size_t size, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions& options, rocksdb::IODebugContext* debug) override;

 private:
  class WritableFile;
  class Directory;
  // Something that was done to a file and is not synced.
  struct Change {
    enum class Kind { kCutToNothing, kAppend };
    Kind kind = Kind::kAppend;
    std::string bytes;
  };
  struct File {
    std::string durable;
    std::vector<Change> unsynced;
    bool broken = false;  // a sync failed: what is not durable will never be
  };
  using FilePtr = std::shared_ptr<File>;
  // One change of the directory, whole or not at all: `from` goes, `to` is `file` from now on. Either may be
  // empty.
  struct NameChange {
    std::string from;
    std::string to;
    FilePtr file;
  };
  using Names = std::map<std::string, FilePtr>;

  static void Apply(const Change& change, File* file);
  static void Apply(const NameChange& change, Names* names);
  void Do(NameChange change);
  // Counts a call that changes something. Returns what is wrong with it.
  rocksdb::IOStatus Call(const std::string& name);
  rocksdb::IOStatus CallForReading(const std::string& name);
  rocksdb::IOStatus Sync(const std::string& name, File* file);
  rocksdb::IOStatus SyncDirectory(const std::string& name);
  // Keeps a part of what is not synced, from its start on.
  void KeepSome(File* file);

  LossyDisk& disk_;
  Random& random_;
  const std::thread::id thread_;
  uint64_t appends_ = 0;
  bool left_zeros_ = false;
  int well_left_ = 0;               // calls without a fault after one: else no database would be opened again
  std::string directory_;           // of the database
  bool directory_durable_ = false;  // its own name
  Names names_;
  Names durable_names_;
  std::vector<NameChange> unsynced_names_;
};

}  // namespace sluice::sim
