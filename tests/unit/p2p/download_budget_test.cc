#include "p2p/cluster/download_budget.h"

#include <gtest/gtest.h>

#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kChunk = 256 << 10;

TEST(DownloadBudgetTest, WithoutABoundNothingWaits) {
  fakes::FakeClock clock;
  DownloadBudget budget(clock, 0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(budget.Take(1 << 30, FetchClass::kBackfill), Duration());
}

TEST(DownloadBudgetTest, EachWaitsForThoseBeforeItAndADemandForNobody) {
  fakes::FakeClock clock;
  DownloadBudget budget(clock, 4 * kChunk);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 0ms) << "a quarter of a second was saved";
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kHint), 0ms);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kReadahead), 250ms);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kDemand), 0ms);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 750ms) << "the demand has borrowed";
  clock.now += 1s;
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 0ms);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 250ms);
}

TEST(DownloadBudgetTest, WhatDidNotComeIsGivenBackAndNoMoreIsSavedThanTheBurst) {
  fakes::FakeClock clock;
  DownloadBudget budget(clock, 4 * kChunk);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 0ms);
    budget.GiveBack(kChunk);
  }
  budget.GiveBack(100 * kChunk);
  clock.now += 1h;
  budget.Take(kChunk, FetchClass::kBackfill);
  budget.Take(kChunk, FetchClass::kBackfill);
  EXPECT_EQ(budget.Take(kChunk, FetchClass::kBackfill), 250ms);
}

}  // namespace
}  // namespace sluice::p2p
