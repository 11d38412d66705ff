#include "api/call_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>

namespace sluice::api {
namespace {

TEST(CallPoolTest, RefusesWhatIsBeyondItsBound) {
  std::promise<void> gate;
  std::shared_future<void> open = gate.get_future().share();
  std::atomic<int> ran = 0;
  {
    CallPool pool(2, 3);
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(pool.Post([open, &ran] {
                        open.wait();
                        ++ran;
                      })
                      .ok())
          << i;
    }
    EXPECT_EQ(pool.Post([&ran] { ran += 100; }).code(), absl::StatusCode::kResourceExhausted);
    gate.set_value();
  }
  EXPECT_EQ(ran, 5);
}

TEST(CallPoolTest, ACallThatBlocksDoesNotKeepOthersFromRunning) {
  std::promise<void> gate;
  std::promise<void> second_ran;
  CallPool pool(2, 0);
  ASSERT_TRUE(pool.Post([&] { gate.get_future().wait(); }).ok());
  ASSERT_TRUE(pool.Post([&] { second_ran.set_value(); }).ok());
  second_ran.get_future().wait();
  gate.set_value();
}

// One that stalls has half of the threads, and half of the places in which calls wait.
TEST(CallPoolTest, AGroupThatStallsHoldsUpNobodyElse) {
  constexpr int kThreads = 4, kWaiting = 8;
  std::promise<void> gate;
  const std::shared_future<void> open = gate.get_future().share();
  std::atomic<int> stalled = 0, ran = 0;
  CallPool pool(kThreads, kWaiting);
  int accepted = 0;
  while (pool.Post(
                 [&, open] {
                   ++stalled;
                   open.wait();
                   ++ran;
                 },
                 "stalled")
             .ok())
    ++accepted;
  EXPECT_EQ(accepted, kThreads / 2 + kWaiting / 2);
  for (int i = 0; i < 100; ++i) {
    std::promise<void> done;
    ASSERT_TRUE(pool.Post([&] { done.set_value(); }, "healthy").ok());
    ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready) << i;
  }
  EXPECT_EQ(stalled, kThreads / 2);
  // Another that stalls has half of what is left.
  std::promise<void> begun;
  ASSERT_TRUE(pool.Post(
                      [&, open] {
                        begun.set_value();
                        open.wait();
                        ++ran;
                      },
                      "stalls too")
                  .ok());
  begun.get_future().wait();
  std::promise<void> done;
  ASSERT_TRUE(pool.Post([&] { done.set_value(); }, "healthy").ok());
  done.get_future().wait();
  gate.set_value();
  pool.Stop();
  EXPECT_EQ(ran, accepted + 1) << "what waited has run";
}

TEST(CallPoolTest, AGroupAloneRunsOneAtLeast) {
  CallPool pool(1, 0);
  for (int i = 0; i < 10; ++i) {
    std::promise<void> done;
    absl::Status posted = absl::UnavailableError("");
    // The thread is free again a moment after its call is over.
    while (!posted.ok()) posted = pool.Post([&] { done.set_value(); }, "alone");
    done.get_future().wait();
  }
}

}  // namespace
}  // namespace sluice::api
