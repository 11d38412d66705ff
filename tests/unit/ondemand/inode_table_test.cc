#include "ondemand/keeper/inode_table.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <unordered_map>

namespace sluice::keeper {
namespace {

TEST(InodeTableTest, FindsWhatWasInserted) {
  auto table = std::make_unique<InodeTable>();
  EXPECT_EQ(table->Find({1, 2}), nullptr);
  table->Insert({{1, 2}, 5, 16, 100});
  ASSERT_NE(table->Find({1, 2}), nullptr);
  EXPECT_EQ(table->Find({1, 2})->entry, 5u);
  EXPECT_EQ(table->Find({2, 1}), nullptr);
  table->Insert({{1, 2}, 6, 16, 100});
  EXPECT_EQ(table->Find({1, 2})->entry, 6u);
  table->Erase({1, 2});
  EXPECT_EQ(table->Find({1, 2}), nullptr);
  table->Erase({1, 2});
}

// Against a map, at its fullest, so that erasing happens within long runs.
TEST(InodeTableTest, AgreesWithAMapThroughRandomChanges) {
  auto table = std::make_unique<InodeTable>();
  std::unordered_map<uint64_t, uint32_t> model;
  std::mt19937 random(42);
  for (uint32_t step = 0; step < 200'000; ++step) {
    const uint64_t inode = random() % (2 * kBlobsMax);
    if (random() % 2 == 0 && model.size() < kBlobsMax) {
      table->Insert({{9, inode}, step, 16, 1});
      model[inode] = step;
    } else {
      table->Erase({9, inode});
      model.erase(inode);
    }
    const uint64_t probe = random() % (2 * kBlobsMax);
    const InodeTable::Blob* found = table->Find({9, probe});
    const auto expected = model.find(probe);
    ASSERT_EQ(found != nullptr, expected != model.end()) << "step " << step;
    if (found != nullptr) {
      ASSERT_EQ(found->entry, expected->second);
    }
  }
}

}  // namespace
}  // namespace sluice::keeper
