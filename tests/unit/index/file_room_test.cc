// How much is reserved: seldom, and never too much.
#include "index/file_room.h"

#include <gtest/gtest.h>

#include <random>

#include "store_fixture.h"

namespace sluice::index {
namespace {

constexpr uint32_t kChunk = 256 << 10;

// A file that has allocated what was reserved for it.
class Room {
 public:
  explicit Room(uint32_t chunks, uint32_t chunk_size = kChunk)
      : geometry_(uint64_t{chunks} * chunk_size, chunk_size), present_(chunks), allocated_(chunks) {}

  void Write(uint32_t index) {
    const ChunkSpan plan = room_.Plan(geometry_, present_, ChunkIndex(index));
    if (plan.count > 0) {
      EXPECT_LE(plan.first, ChunkIndex(index));
      EXPECT_GT(plan.end(), ChunkIndex(index));
      EXPECT_LE(plan.count, std::max<uint64_t>(FileRoom::kAheadBytesMax / geometry_.chunk_size(), 1) +
                                FileRoom::kRunGapChunksMax);
      room_.Reserved(geometry_, plan);
      allocated_.Add(plan);
      ++reservations_;
    }
    EXPECT_TRUE(allocated_.Has(ChunkIndex(index)));
    present_.Set(ChunkIndex(index));
    most_ = std::max(most_, static_cast<double>(allocated_.Count()) / present_.present_count());
  }
  void Measure() { room_.Measured(uint64_t{allocated_.Count()} * geometry_.chunk_size()); }

  FileRoom room_;
  ChunkGeometry geometry_;
  PresenceMap present_;
  ChunkSet allocated_;
  uint32_t reservations_ = 0;
  double most_ = 0;  // chunks allocated for each that is present
};

TEST(FileRoom, ASequenceDoublesItsRoomUpToTheBound) {
  Room room(4096);
  for (uint32_t i = 0; i < 4096; ++i) room.Write(i);
  EXPECT_LE(room.most_, 2.0);
  const uint32_t by_bound = 4096 / (FileRoom::kAheadBytesMax / kChunk);
  EXPECT_LE(room.reservations_, by_bound + 12);
  EXPECT_EQ(room.allocated_.Count(), 4096u) << "nothing past the end";
}

TEST(FileRoom, ASequenceThatComesOutOfOrderDoublesToo) {
  Room room(1024);
  for (uint32_t i = 0; i < 1024; i += 8) {
    for (const uint32_t j : {1u, 0u, 4u, 3u, 2u, 7u, 5u, 6u}) room.Write(i + j);
  }
  EXPECT_LE(room.most_, 2.0);
  EXPECT_LE(room.reservations_, 1024 / 64 + 30);
}

TEST(FileRoom, ScatteredChunksTakeTheirOwnRoomAlone) {
  Room alone(4096);
  for (uint32_t i = 0; i < 4096; i += 16) alone.Write(i);
  EXPECT_EQ(alone.most_, 1.0);
  Room pairs(4096);
  for (uint32_t i = 0; i < 4096; i += 64) {
    pairs.Write(i);
    pairs.Write(i + 1);
  }
  EXPECT_EQ(pairs.most_, 1.0);
}

TEST(FileRoom, NeverTwiceWhatIsPresentInWhateverOrderTheyCome) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const uint32_t chunk_size = kChunkSizeMin << (random() % 8);
    Room room(512 + random() % 2000, chunk_size);
    const uint32_t count = room.geometry_.chunk_count();
    for (int run = 0; run < 60; ++run) {
      const uint32_t from = random() % count, step = 1 + random() % 6, length = random() % 60;
      for (uint32_t i = 0; i < length && from + i * step < count; ++i) room.Write(from + i * step);
      if (random() % 4 == 0) room.Measure();
      // As after a restart, of which only what is allocated is known.
      if (random() % 8 == 0) {
        room.room_.Clear();
        room.Measure();
      }
    }
    ASSERT_LE(room.most_, 2.0) << "seed " << seed;
  }
}

TEST(FileRoom, RoomThatCouldNotBeReservedIsPlannedAgain) {
  Room room(64);
  for (uint32_t i = 0; i < 4; ++i) room.Write(i);
  const ChunkSpan plan = room.room_.Plan(room.geometry_, room.present_, ChunkIndex(4));
  EXPECT_GT(plan.count, 1u);
  EXPECT_EQ(room.room_.Plan(room.geometry_, room.present_, ChunkIndex(5)).count, 0u) << "on its way";
  room.room_.Failed(room.geometry_, plan);
  EXPECT_EQ(room.room_.Plan(room.geometry_, room.present_, ChunkIndex(4)), plan);
}

TEST(FileRoom, WhatIsBeingReservedForOneRunIsNotThereForAnother) {
  Room room(4096);
  const auto write_run = [&](uint32_t first) {
    uint32_t next = first;
    while (next < first + 40 || room.allocated_.Has(ChunkIndex(next))) room.Write(next++);
    return ChunkIndex(next);
  };
  const ChunkIndex one = write_run(0), other = write_run(1000);
  const ChunkSpan first = room.room_.Plan(room.geometry_, room.present_, one);
  EXPECT_GT(first.count, 1u);
  const ChunkSpan second = room.room_.Plan(room.geometry_, room.present_, other);
  EXPECT_LE(room.allocated_.Count() + first.count + second.count,
            (room.present_.present_count() + 1) * FileRoom::kAllocatedEighths / 8);
}

class FileRoomStoreTest : public StoreTest {
 protected:
  uint64_t Allocated(const SampleBlob& sample) {
    struct stat status {};
    EXPECT_EQ(::stat(store_->BlobPath(sample.spec.digest).c_str(), &status), 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }
};

TEST_F(FileRoomStoreTest, WhatTheStoreTakesUpIsWhatTheFileSystemCounts) {
  const auto counted = [&] {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(temp_.path() + "/data")) {
      struct stat status {};
      if (::lstat(entry.path().c_str(), &status) == 0 && entry.is_regular_file()) {
        bytes += static_cast<uint64_t>(status.st_blocks) * 512;
      }
    }
    return bytes;
  };
  const SampleBlob first(1, 8 << 20), second(2, 4 << 20);
  OpenStore();
  const uint64_t empty = store_->UsedBytes();
  EXPECT_GE(empty, DataDir::kReserveBytes);
  for (uint32_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(CommitChunk(first, i).ok());
    ASSERT_GE(store_->UsedBytes(), empty + (i + 1) * kChunkSizeMin) << "not only after a sync";
  }
  CommitAll(second, Evidence::kVerified);
  OpenStore();
  // Nothing but the lock file and the like is left out, and the folders themselves.
  constexpr double kNear = 128 << 10;
  EXPECT_NEAR(static_cast<double>(store_->UsedBytes()), static_cast<double>(counted()), kNear);
  const uint64_t before = store_->UsedBytes();
  const uint64_t freed = Allocated(first);
  ASSERT_TRUE(store_->Evict(first.spec.digest, EvictReason::kRequested).ok());
  EXPECT_EQ(store_->UsedBytes(), before - freed);
}

TEST_F(FileRoomStoreTest, TheFileSystemAgrees) {
  const SampleBlob sample(1, 40 << 20);
  OpenStore();
  uint64_t present = 0;
  for (uint32_t i = 0; i < 300; ++i, present += kChunkSizeMin) ASSERT_TRUE(CommitChunk(sample, i).ok());
  store_->Flush();
  EXPECT_LE(Allocated(sample), 2 * present);
  EXPECT_GT(Allocated(sample), present) << "room was reserved ahead";
  for (int round = 0; round < 3; ++round) {
    OpenStore();
    for (uint32_t i = 400 + round * 300; i < 600u + round * 300; ++i, present += kChunkSizeMin) {
      ASSERT_TRUE(CommitChunk(sample, i).ok());
      ASSERT_LE(Allocated(sample), 2 * (present + kChunkSizeMin));
    }
  }
}

}  // namespace
}  // namespace sluice::index
