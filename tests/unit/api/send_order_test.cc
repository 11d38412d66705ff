#include "api/http/send_order.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace sluice::api {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Turn = SendOrder::Turn;

constexpr uint64_t kMuch = 64 << 20;

class SendOrderTest : public ::testing::Test {
 protected:
  void Bound(uint64_t bytes_per_s) {
    order_ = std::make_unique<SendOrder>(bytes_per_s, now_, [this] { ++room_; });
  }
  std::unique_ptr<Turn> Begin(SendUrgency urgency) { return std::make_unique<Turn>(*order_, urgency, now_); }
  std::unique_ptr<Turn> Demand() { return Begin(SendUrgency::kDemand); }
  std::unique_ptr<Turn> Fill() { return Begin(SendUrgency::kFill); }
  // Sends what may be sent.
  uint64_t Send(const std::unique_ptr<Turn>& turn, uint64_t left = kMuch) {
    const uint64_t bytes = order_->MaySend(*turn, left, now_);
    if (bytes > 0) order_->Sent(*turn, bytes, now_);
    return bytes;
  }

  Instant now_{std::chrono::hours(1)};
  int room_ = 0;
  std::unique_ptr<SendOrder> order_ = std::make_unique<SendOrder>(0, now_, [this] { ++room_; });
};

TEST_F(SendOrderTest, SlicesAreBoundedAndThoseOfFillsSmaller) {
  const auto demand = Demand();
  EXPECT_EQ(Send(demand), SendOrder::kSliceBytes);
  EXPECT_EQ(Send(demand, 5), 5u);
  now_ += seconds(10);
  const auto fill = Fill();
  EXPECT_EQ(Send(fill), SendOrder::kFillSliceBytes);
}

TEST_F(SendOrderTest, FillsWaitWhileADemandIsSentAndAreToldOfItsEnd) {
  const auto fill = Fill();
  auto first = Demand(), second = Demand();
  EXPECT_EQ(Send(fill), 0u);
  EXPECT_GT(order_->LookAgainAt(*fill, kMuch, now_), now_);
  EXPECT_GT(Send(first), 0u);
  first.reset();
  EXPECT_EQ(Send(fill), 0u);
  second.reset();
  EXPECT_EQ(room_, 2);
  EXPECT_EQ(Send(fill), SendOrder::kFillSliceBytes);
}

TEST_F(SendOrderTest, AFillIsNeverHeldForSoLongThatItSeemsDead) {
  const auto fill = Fill();
  for (int i = 0; i < 20; ++i) {
    // One after the other, without a gap.
    const auto demand = Demand();
    const Instant look = order_->LookAgainAt(*fill, kMuch, now_);
    EXPECT_LE(look - now_, SendOrder::kFillHeldMax);
    EXPECT_EQ(Send(fill), 0u);
    now_ = look;
    EXPECT_EQ(Send(fill), SendOrder::kFillSliceBytes) << i;
  }
}

TEST_F(SendOrderTest, ADemandThatNobodyTakesInHoldsFillsUpForAWhileOnly) {
  const auto stuck = Demand();
  now_ += SendOrder::kDemandHoldsMax;
  const auto fill = Fill();
  EXPECT_EQ(Send(fill), SendOrder::kFillSliceBytes);
  EXPECT_EQ(Send(fill), SendOrder::kFillSliceBytes);
  const auto next = Demand();
  EXPECT_EQ(Send(fill), 0u);
}

TEST_F(SendOrderTest, NoMoreThanTheRateIsSentWhateverIsAsked) {
  constexpr uint64_t kRate = 1000 * 1000;
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    Bound(kRate);
    std::mt19937 random(seed);
    std::vector<std::unique_ptr<Turn>> turns;
    for (int i = 0; i < 6; ++i) turns.push_back(i % 2 ? Fill() : Demand());
    const Instant began = now_;
    uint64_t sent = 0;
    while (now_ - began < seconds(20)) {
      now_ += milliseconds(random() % 30);
      sent += Send(turns[random() % turns.size()], 1 + random() % kMuch);
      const double allowed = std::chrono::duration<double>(now_ - began + SendOrder::kBurst).count() * kRate;
      ASSERT_LE(static_cast<double>(sent), allowed + 1) << "seed " << seed;
    }
    EXPECT_GT(sent, 19u * kRate);
  }
}

TEST_F(SendOrderTest, WhatTheRateLeavesDemandsHaveFirst) {
  Bound(1000 * 1000);
  const auto fill = Fill();
  const auto demand = Demand();
  while (Send(demand) > 0) {
  }
  for (int i = 0; i < 200; ++i) {
    now_ += milliseconds(20);
    EXPECT_EQ(Send(fill), 0u) << "the demand has still to send";
    EXPECT_GT(Send(demand), 0u);
    EXPECT_EQ(Send(demand), 0u);
  }
}

TEST_F(SendOrderTest, WhatIsLookedForAgainIsThere) {
  Bound(100 * 1000);
  const auto fill = Fill();
  for (int i = 0; i < 50; ++i) {
    while (Send(fill) > 0) {
    }
    const Instant look = order_->LookAgainAt(*fill, kMuch, now_);
    ASSERT_GT(look, now_);
    ASSERT_LT(look - now_, seconds(1));
    now_ = look;
    EXPECT_GT(Send(fill), 0u);
  }
}

}  // namespace
}  // namespace sluice::api
