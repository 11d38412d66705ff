// The index in RocksDB: what it asks of the file system. What survives a power loss is the simulation's to
// say (tests/sim).
#include "index/rocks_index.h"

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "store_fixture.h"

namespace sluice::index {
namespace {

namespace fs = std::filesystem;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// The real file system; notes which directories are synced and to which names files are renamed.
class NotingFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit NotingFileSystem(std::vector<std::string>* calls)
      : FileSystemWrapper(FileSystem::Default()), calls_(*calls) {}

  const char* Name() const override { return "NotingFileSystem"; }

  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* directory, IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSDirectory> inner;
    const IOStatus opened = FileSystemWrapper::NewDirectory(name, options, &inner, debug);
    if (opened.ok()) *directory = std::make_unique<Directory>(std::move(inner), name, calls_);
    return opened;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    calls_.push_back("rename to " + to);
    return FileSystemWrapper::RenameFile(from, to, options, debug);
  }

 private:
  class Directory final : public rocksdb::FSDirectory {
   public:
    Directory(std::unique_ptr<rocksdb::FSDirectory> inner, std::string name, std::vector<std::string>& calls)
        : inner_(std::move(inner)), name_(std::move(name)), calls_(calls) {}
    IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
      calls_.push_back("sync " + name_);
      return inner_->Fsync(options, debug);
    }
    IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
      return inner_->Close(options, debug);
    }

   private:
    const std::unique_ptr<rocksdb::FSDirectory> inner_;
    const std::string name_;
    std::vector<std::string>& calls_;
  };

  std::vector<std::string>& calls_;
};

class RocksIndexTest : public testing::Test {
 protected:
  std::unique_ptr<IndexDb> Open() {
    absl::StatusOr<std::unique_ptr<IndexDb>> db = OpenRocksIndexOn(*env_, path_);
    EXPECT_TRUE(db.ok()) << db.status();
    return db.ok() ? *std::move(db) : nullptr;
  }
  // When the call came; the number of all calls if it did not.
  size_t Place(const std::string& call) const {
    return static_cast<size_t>(std::find(calls_.begin(), calls_.end(), call) - calls_.begin());
  }

  const TempDir temp_;
  const std::string path_ = temp_.path() + "/index";
  std::vector<std::string> calls_;
  const std::shared_ptr<NotingFileSystem> files_ = std::make_shared<NotingFileSystem>(&calls_);
  const std::unique_ptr<rocksdb::Env> env_ = rocksdb::NewCompositeEnv(files_);
};

TEST_F(RocksIndexTest, TheNameOfItsDirectoryIsSyncedBeforeItIsADatabase) {
  ASSERT_NE(Open(), nullptr);
  EXPECT_LT(Place("sync " + temp_.path()), Place("rename to " + path_ + "/CURRENT"));
}

TEST_F(RocksIndexTest, ADirectoryThatAPredecessorLeftEmptyIsSyncedToo) {
  fs::create_directory(path_);
  ASSERT_NE(Open(), nullptr);
  EXPECT_LT(Place("sync " + temp_.path()), Place("rename to " + path_ + "/CURRENT"));
}

TEST_F(RocksIndexTest, ADatabaseThatIsThereCostsNoSuchSync) {
  ASSERT_NE(Open(), nullptr);
  calls_.clear();
  ASSERT_NE(Open(), nullptr);
  EXPECT_EQ(Place("sync " + temp_.path()), calls_.size());
}

}  // namespace
}  // namespace sluice::index
