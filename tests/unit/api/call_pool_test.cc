#include "api/call_pool.h"

#include <gtest/gtest.h>

#include <atomic>
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

}  // namespace
}  // namespace sluice::api
