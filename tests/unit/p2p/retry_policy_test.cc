#include "p2p/registry/retry_policy.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

class FakeClock final : public Clock {
 public:
  Instant Now() const override { return now; }
  Instant now{1h};
};

TEST(BackoffTest, DelaysAreJitteredUpToADoublingCeiling) {
  Backoff backoff(100ms, 1s, 1);
  std::set<Duration> seen;
  for (int i = 0; i < 200; ++i) {
    EXPECT_LE(backoff.Delay(1), 100ms);
    EXPECT_LE(backoff.Delay(3), 400ms);
    const Duration late = backoff.Delay(4'000'000'000);
    EXPECT_LE(late, 1s);
    seen.insert(late);
  }
  EXPECT_GT(*seen.rbegin(), 800ms);
  EXPECT_LT(*seen.begin(), 200ms);
}

TEST(BackoffTest, SeedReplaysTheDelays) {
  Backoff a(100ms, 1s, 7);
  Backoff b(100ms, 1s, 7);
  for (uint32_t i = 1; i < 10; ++i) EXPECT_EQ(a.Delay(i), b.Delay(i));
}

TEST(RetryAfterTest, SecondsAndDatesAreRead) {
  EXPECT_EQ(ParseRetryAfter("120", 0), 120s);
  EXPECT_EQ(ParseRetryAfter("Thu, 01 Jan 1970 00:02:00 GMT", 100), 20s);
  EXPECT_EQ(ParseRetryAfter("Thu, 01 Jan 1970 00:02:00 GMT", 500), 0s);
  EXPECT_EQ(ParseRetryAfter("soon", 0), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("-1", 0), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("", 0), std::nullopt);
}

TEST(PatienceTest, LastsAsLongAsTheRegistryHasAskedFor) {
  FakeClock clock;
  Patience patience(clock);
  EXPECT_FALSE(patience.IsAskedBy("a"));
  patience.Asked("a", 10s);
  patience.Asked("a", 2s);  // a request that was sent earlier, perhaps
  EXPECT_FALSE(patience.IsAskedBy("b"));
  clock.now += 10s - 1ns;
  EXPECT_TRUE(patience.IsAskedBy("a"));
  clock.now += 1ns;
  EXPECT_FALSE(patience.IsAskedBy("a"));
}

TEST(PatienceTest, IsBounded) {
  FakeClock clock;
  Patience patience(clock);
  for (size_t i = 0; i < Patience::kRegistriesMax; ++i) patience.Asked(std::to_string(i), 10s);
  patience.Asked("one more", 10s);
  EXPECT_FALSE(patience.IsAskedBy("one more"));
  patience.Asked("0", 20s);
  clock.now += 10s;
  patience.Asked("one more", 10s);
  EXPECT_TRUE(patience.IsAskedBy("one more")) << "whose time is over makes room";
  EXPECT_TRUE(patience.IsAskedBy("0"));
}

TEST(CircuitBreakerTest, OpensAfterFailuresInARowAndLetsOneProbeThrough) {
  FakeClock clock;
  CircuitBreaker breaker(3, 2s, clock);
  for (int i = 0; i < 2; ++i) breaker.Failed("a", clock.now);
  breaker.Succeeded("a");
  for (int i = 0; i < 2; ++i) breaker.Failed("a", clock.now);
  EXPECT_TRUE(breaker.Admit("a").ok());
  breaker.Failed("a", clock.now);
  EXPECT_TRUE(absl::IsUnavailable(breaker.Admit("a")));
  EXPECT_TRUE(breaker.Admit("b").ok());

  clock.now += 2s;
  EXPECT_TRUE(breaker.Admit("a").ok());
  EXPECT_TRUE(absl::IsUnavailable(breaker.Admit("a"))) << "a second request went with the probe";
  breaker.Failed("a", clock.now);
  EXPECT_TRUE(absl::IsUnavailable(breaker.Admit("a")));
  clock.now += 2s;
  EXPECT_TRUE(breaker.Admit("a").ok());
  breaker.Succeeded("a");
  EXPECT_TRUE(breaker.Admit("a").ok());
  EXPECT_TRUE(breaker.Admit("a").ok());
}

TEST(CircuitBreakerTest, BoundLeavesFurtherHostsUnwatched) {
  FakeClock clock;
  CircuitBreaker breaker(1, 2s, clock);
  for (size_t i = 0; i < CircuitBreaker::kHostsMax; ++i) breaker.Failed(std::to_string(i), clock.now);
  breaker.Failed("one more", clock.now);
  EXPECT_TRUE(breaker.Admit("one more").ok());
  EXPECT_FALSE(breaker.Admit("0").ok());
  breaker.Succeeded("1");
  breaker.Failed("one more", clock.now);
  EXPECT_FALSE(breaker.Admit("one more").ok()) << "a host that is well keeps its place";
}

TEST(CircuitBreakerTest, FailureOfWhatWasSentBeforeTheLastAnswerDoesNotCount) {
  FakeClock clock;
  CircuitBreaker breaker(2, 2s, clock);
  const Instant sent = clock.now;
  clock.now += 1s;
  breaker.Succeeded("a");
  for (int i = 0; i < 5; ++i) breaker.Failed("a", sent);
  EXPECT_TRUE(breaker.Admit("a").ok());
  for (int i = 0; i < 2; ++i) breaker.Failed("a", clock.now);
  EXPECT_FALSE(breaker.Admit("a").ok());
}

}  // namespace
}  // namespace sluice::p2p
