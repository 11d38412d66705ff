// A data directory on a small ext4 of its own that fills up.
#include <sys/statvfs.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "store_fixture.h"

namespace sluice::index {
namespace {

class FullDiskTest : public StoreTest {
 protected:
  void SetUp() override {
    const std::string image = temp_.path() + "/image";
    mount_point_ = temp_.path() + "/data";
    std::filesystem::create_directory(mount_point_);
    std::ofstream(image).close();
    std::filesystem::resize_file(image, 48 << 20);
    const std::string command =
        absl::StrCat("mkfs.ext4 -q -m 0 ", image, " && mount -o loop ", image, " ", mount_point_);
    if (std::system(command.c_str()) == 0) {
      mounted_disk_ = true;
      return;
    }
    const char* reason = "a loop-mounted ext4 is needed: run as root on a host with loop devices";
    if (std::getenv("CI") != nullptr) FAIL() << reason;
    std::fprintf(stderr, "FULL DISK IS NOT TESTED: %s\n", reason);
    GTEST_SKIP() << reason;
  }
  void TearDown() override {
    store_.reset();
    if (mounted_disk_ && std::system(("umount " + mount_point_).c_str()) != 0) {
      ADD_FAILURE() << mount_point_ << " is still mounted";
    }
  }

  void FillUp() {
    std::ofstream hog(mount_point_ + "/hog", std::ios::binary);
    const std::string block(4096, 'x');
    while (hog.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
    struct statvfs space {};
    ASSERT_EQ(::statvfs(mount_point_.c_str(), &space), 0);
    ASSERT_LT(space.f_bavail * space.f_frsize, kChunkSizeMin);
  }

  // Leaves a store that holds `sample` and can't write its index: neither the disk nor the reserve has room
  // left.
  void FillUpUntilTheIndexFails(const SampleBlob& sample) {
    const SampleBlob other(9);
    OpenStore();
    CommitAll(sample, Evidence::kVerified);
    OpenBlob(other);
    store_.reset();
    FillUp();
    OpenStore();
    ASSERT_TRUE(store_);
    std::filesystem::remove(mount_point_ + "/RESERVE");
    FillUp();
    absl::Status full;
    while (full.ok()) full = store_->Pin(other.spec.digest);
    ASSERT_TRUE(absl::IsResourceExhausted(full)) << full;
  }

  std::string mount_point_;
  bool mounted_disk_ = false;
};

TEST_F(FullDiskTest, CommitsFailCleanlyAndAnEvictionMakesRoom) {
  const SampleBlob first(1, 8 << 20);
  const SampleBlob second(2, 64 << 20);
  OpenStore();
  CommitAll(first, Evidence::kVerified);
  store_->Flush();
  const std::shared_ptr<Blob> blob = OpenBlob(second);
  absl::Status status;
  uint32_t next = 0;
  while (status.ok()) {
    ASSERT_LT(next, second.chunk_count());
    status = store_->Commit(*blob, ChunkIndex(next), second.Chunk(next), Evidence::kVerified);
    ++next;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_FALSE(blob->presence().IsPresent(ChunkIndex(next - 1)));
  store_->Flush();
  ExpectTrue(second);
  ExpectTrue(first);

  ASSERT_TRUE(store_->Evict(first.spec.digest, EvictReason::kWatermark).ok());
  ASSERT_TRUE(store_->Commit(*blob, ChunkIndex(next), second.Chunk(next), Evidence::kVerified).ok());
  store_->Flush();
  EXPECT_TRUE(blob->presence().IsPresent(ChunkIndex(next)));
  const uint32_t present = blob->presence().present_count();
  OpenStore();
  EXPECT_FALSE(store_->open_report().rebuilt);
  EXPECT_EQ(store_->open_report().chunks_present, present);
  ExpectTrue(second);
}

TEST_F(FullDiskTest, EvictionWorksWithoutASingleFreeBlock) {
  const SampleBlob first(1, 8 << 20);
  OpenStore();
  CommitAll(first, Evidence::kVerified);
  store_->Flush();
  FillUp();
  const absl::Status evicted = store_->Evict(first.spec.digest, EvictReason::kWatermark);
  EXPECT_TRUE(evicted.ok()) << evicted;
  CommitAll(first, Evidence::kVerified);
  FlushUntil([&] { return store_->IsSettled(first.spec.digest); });
}

TEST_F(FullDiskTest, StoreOpensAndEvictsOnADiskThatWasFullBefore) {
  const SampleBlob first(1, 8 << 20);
  OpenStore();
  CommitAll(first, Evidence::kVerified);
  store_.reset();
  FillUp();
  OpenStore();
  ASSERT_TRUE(store_);
  EXPECT_FALSE(store_->open_report().rebuilt);
  ExpectTrue(first);
  const absl::Status evicted = store_->Evict(first.spec.digest, EvictReason::kWatermark);
  EXPECT_TRUE(evicted.ok()) << evicted;
}

TEST_F(FullDiskTest, EvictionWorksWhenTheReserveIsUsedUp) {
  const SampleBlob first(1, 8 << 20);
  FillUpUntilTheIndexFails(first);
  const absl::Status evicted = store_->Evict(first.spec.digest, EvictReason::kWatermark);
  EXPECT_TRUE(evicted.ok()) << evicted;
  OpenStore();
  ASSERT_TRUE(store_);
  EXPECT_FALSE(store_->open_report().rebuilt);
  EXPECT_FALSE(store_->Find(first.spec.digest));
}

TEST_F(FullDiskTest, IndexIsWrittenAgainLongAfterThereIsRoom) {
  const SampleBlob first(1, 8 << 20);
  FillUpUntilTheIndexFails(first);
  std::filesystem::remove(mount_point_ + "/hog");
  // RocksDB's own recovery, which must not take place, looks for room every 5 s.
  std::this_thread::sleep_for(std::chrono::seconds(6));
  const absl::Status written = store_->Pin(first.spec.digest);
  EXPECT_TRUE(written.ok()) << written;
}

}  // namespace
}  // namespace sluice::index
