#include "node/evictor.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

EvictionCandidate Candidate(uint8_t name, uint64_t bytes, int64_t last_used_ms) {
  std::array<uint8_t, Digest::kBytes> digest{name};
  return {Digest(digest), bytes, last_used_ms};
}

std::string Names(const std::vector<EvictionCandidate>& chosen) {
  std::string names;
  for (const EvictionCandidate& candidate : chosen)
    names += static_cast<char>(candidate.key.name().bytes()[0]);
  return names;
}

TEST(EvictorTest, WhatWasUsedLongestAgoGoesFirstAndNoMoreThanIsNeeded) {
  const std::vector<EvictionCandidate> candidates = {Candidate('c', 10, 300), Candidate('a', 10, 100),
                                                     Candidate('d', 10, 400), Candidate('b', 10, 200)};
  EXPECT_EQ(Names(ChooseEvictions(candidates, 0)), "");
  EXPECT_EQ(Names(ChooseEvictions(candidates, 1)), "a");
  EXPECT_EQ(Names(ChooseEvictions(candidates, 10)), "a");
  EXPECT_EQ(Names(ChooseEvictions(candidates, 11)), "ab");
  EXPECT_EQ(Names(ChooseEvictions(candidates, 40)), "abcd");
  EXPECT_EQ(Names(ChooseEvictions(candidates, 1000)), "abcd");
}

TEST(EvictorTest, WhatGivesBackNothingStays) {
  EXPECT_EQ(Names(ChooseEvictions({Candidate('a', 0, 100), Candidate('b', 10, 200)}, 5)), "b");
  EXPECT_EQ(Names(ChooseEvictions({}, 5)), "");
}

TEST(EvictorTest, WhatWasUsedAtOneTimeGoesInTheOrderOfNames) {
  EXPECT_EQ(Names(ChooseEvictions({Candidate('b', 1, 7), Candidate('a', 1, 7)}, 1)), "a");
}

TEST(EvictorTest, WatermarksArePartsOfTheCapacity) {
  const StoreLimits limits{.capacity_bytes = 1000, .high_percent = 90, .low_percent = 80};
  EXPECT_EQ(limits.high_bytes(), 900u);
  EXPECT_EQ(limits.low_bytes(), 800u);
}

}  // namespace
}  // namespace sluice
