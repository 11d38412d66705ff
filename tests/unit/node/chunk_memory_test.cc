#include "node/chunk_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice {
namespace {

constexpr size_t kLength = 256 << 10;

class ChunkMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    { const auto probe = memory_.Take(kLength); }
    if (memory_.kept_bytes() == 0) GTEST_SUCCEED() << "sanitized builds keep nothing";
    keeps_ = memory_.kept_bytes() > 0;
  }

  ChunkMemory memory_;
  bool keeps_ = false;
};

TEST_F(ChunkMemoryTest, WhatWasLetGoOfIsUsedAgainForTheSameLength) {
  std::byte* const first = memory_.Take(kLength).get();
  const auto other = memory_.Take(2 * kLength);
  EXPECT_NE(other.get(), first);
  EXPECT_EQ(memory_.kept_bytes(), keeps_ ? kLength : 0);
  const auto again = memory_.Take(kLength);
  if (keeps_) {
    EXPECT_EQ(again.get(), first);
  }
  EXPECT_EQ(memory_.kept_bytes(), 0u);
  const auto second = memory_.Take(kLength);
  EXPECT_NE(second.get(), again.get()) << "one who uses it still";
}

TEST_F(ChunkMemoryTest, KeepsNoMoreThanItsBoundAndTheNewest) {
  const size_t count = 2 * ChunkMemory::kKeptMax / kLength;
  std::vector<std::shared_ptr<std::byte[]>> used;
  for (size_t i = 0; i < count; ++i) used.push_back(memory_.Take(kLength));
  const auto large = memory_.Take(ChunkMemory::kKeptMax + 1);
  std::byte* last = nullptr;
  for (auto& bytes : used) {
    last = bytes.get();
    bytes.reset();
    EXPECT_LE(memory_.kept_bytes(), ChunkMemory::kKeptMax);
  }
  EXPECT_EQ(memory_.kept_bytes(), keeps_ ? ChunkMemory::kKeptMax : 0);
  if (keeps_) {
    EXPECT_EQ(memory_.Take(kLength).get(), last);
  }
  EXPECT_LE(memory_.kept_bytes(), ChunkMemory::kKeptMax);
}

TEST_F(ChunkMemoryTest, ShortAndVeryLongOnesAreNotKept) {
  const size_t before = memory_.kept_bytes();
  { const auto bytes = memory_.Take(ChunkMemory::kLengthMin - 1); }
  EXPECT_EQ(memory_.kept_bytes(), before);
  { const auto bytes = memory_.Take(0); }
  { const auto bytes = memory_.Take(ChunkMemory::kKeptMax + 1); }
  EXPECT_EQ(memory_.kept_bytes(), before);
}

}  // namespace
}  // namespace sluice
