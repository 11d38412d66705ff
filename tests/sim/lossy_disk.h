#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "index/file_identity.h"
#include "index/store_file_system.h"
#include "node/geometry.h"
#include "tests/sim/random.h"

namespace sluice::sim {

// A disk that keeps over a power loss what was synced, and of the rest what the seed says: bytes in any
// choice and torn, names in order. Beneath it lie real files, for the store looks at some of them by itself;
// they hold what the page cache would. After a sync that failed, its bytes are read back as if they were
// there, later syncs succeed, and a power loss shows that some never reached the disk: as Linux does it.
//
// Not thread-safe: the store runs with Threads::kNone.
class LossyDisk final : public index::StoreFileSystem {
 public:
  // In percent of the calls.
  struct Faults {
    int sync = 0;
    int write = 0;        // EIO, after some of the bytes
    int full = 0;         // ENOSPC
    int short_write = 0;  // fewer bytes than asked for, which is no error
    int open = 0;
    int read = 0;
    int index = 0;  // of the index's writes, or of the calls they make
  };
  struct Hooks {
    std::function<void(const std::string& name, uint64_t inode, ByteRange range)> before_write;
    std::function<void(const std::string& name, uint64_t inode)> before_unlink;
    std::function<void()> while_syncing;  // others go on meanwhile
    std::function<void()> while_reading;
  };

  // Files of `directory`, which the store makes, are lossy; removed ones wait in `trash`. REQUIRES: both on
  // one file system, empty
  LossyDisk(std::string directory, std::string trash, Random& random)
      : directory_(std::move(directory)), trash_(std::move(trash)), random_(random) {}

  Faults faults;
  Hooks hooks;
  uint64_t faults_fired = 0;
  bool quiet = false;  // the simulation itself looks: no fault, no hook, no death

  // The node dies before the call that comes after `calls` others. Until then it is alive.
  void DieAfter(int calls) { calls_left_ = calls; }
  void LiveOn() { calls_left_ = -1; }
  void Die() { dead_ = true; }
  bool dead() const { return dead_; }
  // Counts a call to the disk. Returns false if the node is dead: nothing that it does has an effect.
  bool Alive();
  // Whether a fault of this kind happens now.
  bool Fires(int percent);

  // The node was killed, but the machine goes on: nothing is lost.
  void Revive();
  // The machine starts again. REQUIRES: no file is open
  void LosePower();

  // Of the file of that name; 0 without one.
  uint64_t InodeOf(const std::string& name) const;
  // A stranger removes a file.
  void RemoveByStranger(const std::string& name);

  int Open(int directory, const std::string& name, int flags) override;
  ssize_t Pread(int fd, void* bytes, size_t size, off_t offset) override;
  ssize_t Pwrite(int fd, const void* bytes, size_t size, off_t offset) override;
  int Reserve(int fd, off_t offset, off_t size) override;
  int Truncate(int fd, off_t size) override;
  int SyncData(int fd) override;
  int SyncDirectory(int directory) override;
  int Unlink(int directory, const std::string& name) override;
  int ReplaceFile(int directory, const std::string& name, std::span<const std::byte> contents) override;
  int SetMark(int fd, std::span<const uint8_t> mark) override;
  ssize_t GetMark(int fd, std::span<uint8_t> mark) override;

 private:
  using Mark = std::vector<uint8_t>;
  // One thing that has been done to a file, or would be without a power loss.
  struct Change {
    enum class Kind { kBytes, kSize, kMark };
    Kind kind = Kind::kBytes;
    uint64_t offset = 0;  // of kSize: the size
    std::vector<std::byte> bytes;
    Mark mark;
  };
  struct File {
    std::vector<std::byte> durable;
    Mark durable_mark;
    Mark mark;
    std::vector<Change> unsynced;
  };
  struct NameChange {
    std::string name;
    ino_t inode = 0;  // 0: removed
  };
  using Names = std::map<std::string, ino_t>;

  static void Apply(const Change& change, File* file);
  static void Apply(const NameChange& change, Names* names);
  void LoseBytes(File* file, bool all);
  void WriteBack(const std::string& path, const File& file) const;
  void Remove(const std::string& name);
  bool IsOurs(int directory);
  File& FileOf(int fd);
  std::string NameOf(int fd) const;
  std::string PathOf(const std::string& name) const { return directory_ + "/" + name; }
  std::string TrashOf(ino_t inode) const { return trash_ + "/" + std::to_string(inode); }

  const std::string directory_;
  const std::string trash_;
  Random& random_;
  ino_t directory_inode_ = 0;  // once it is there
  bool dead_ = false;
  int calls_left_ = -1;  // below 0: it does not die by itself
  std::map<ino_t, File> files_;
  Names names_;
  Names durable_names_;
  std::vector<NameChange> unsynced_names_;
};

}  // namespace sluice::sim
