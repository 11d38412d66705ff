#include "node/image_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace sluice {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

ProfileSpan Span(uint32_t blob, uint32_t first, uint32_t count, uint32_t after_ms,
                 uint8_t weight = ProfileSpan::kWeightMax) {
  return {blob, {ChunkIndex(first), count}, after_ms, weight};
}
ImageProfile StartOf(std::vector<ProfileSpan> spans, std::vector<uint32_t> blind = {}) {
  return {1, std::move(spans), std::move(blind)};
}

TEST(FirstTouchesTest, OfEachChunkTheFirstTouchCounts) {
  FirstTouches touches({10, 4});
  EXPECT_TRUE(touches.empty());
  touches.Note(0, {ChunkIndex(3), 2}, milliseconds(0));
  touches.Note(1, {ChunkIndex(0), 1}, milliseconds(70));
  std::vector<ChunkSpan> fresh;
  touches.Note(0, {ChunkIndex(2), 5}, milliseconds(900), [&](ChunkSpan span) { fresh.push_back(span); });
  EXPECT_THAT(fresh, ElementsAre(ChunkSpan{ChunkIndex(2), 1}, ChunkSpan{ChunkIndex(5), 2}));
  touches.Note(1, {ChunkIndex(0), 1}, milliseconds(950));
  EXPECT_THAT(touches.start().spans,
              ElementsAre(Span(0, 3, 2, 0), Span(1, 0, 1, 70), Span(0, 2, 1, 900), Span(0, 5, 2, 900)));
  EXPECT_EQ(touches.start().runs, 1u);
}

TEST(FirstTouchesTest, TouchesInARowSoonAfterEachOtherAreOneSpan) {
  FirstTouches touches({200});
  for (uint32_t i = 0; i < 100; ++i) touches.Note(0, {ChunkIndex(i), 1}, milliseconds(i));
  for (const ProfileSpan& span : touches.start().spans) {
    EXPECT_LE(span.chunks.count, FirstTouches::kSpanChunksMax);
    EXPECT_LE(99 - span.after_ms, 99u);
  }
  EXPECT_LE(touches.start().spans.size(), 3u);
  touches.Note(0, {ChunkIndex(100), 1}, milliseconds(99) + FirstTouches::kTogether + milliseconds(51));
  EXPECT_EQ(touches.start().spans.back().chunks.first, ChunkIndex(100)) << "that was a pause";
}

TEST(FirstTouchesTest, WhatIsNeededLastIsLeftOutOfALongStart) {
  FirstTouches touches({kChunksPerBlobMax});
  for (uint32_t i = 0; i < 4000; ++i) touches.Note(0, {ChunkIndex(2 * i), 1}, milliseconds(i));
  ASSERT_EQ(touches.start().spans.size(), ImageProfile::kSpansMax);
  EXPECT_EQ(touches.start().spans.back().after_ms, ImageProfile::kSpansMax - 1);
}

TEST(MergedTest, TheFirstStartIsTakenAsItIs) {
  const ImageProfile start = StartOf({Span(0, 3, 2, 0), Span(1, 0, 1, 70)}, {1});
  const ImageProfile merged = Merged({}, start);
  EXPECT_EQ(merged.runs, 1u);
  EXPECT_EQ(merged.spans, start.spans);
  EXPECT_THAT(merged.blind, IsEmpty());
}

TEST(MergedTest, WhatSeveralStartsDontTouchIsForgottenAndComesBack) {
  ImageProfile known = Merged({}, StartOf({Span(0, 3, 1, 0), Span(0, 9, 1, 500)}));
  const ImageProfile without = StartOf({Span(0, 3, 1, 0)});
  int starts = 0;
  while (known.spans.size() == 2) {
    known = Merged(known, without);
    ASSERT_LT(++starts, 10);
  }
  EXPECT_GE(starts, 3) << "one start that goes another way forgets nothing";
  EXPECT_THAT(known.spans, ElementsAre(Span(0, 3, 1, 0)));
  known = Merged(known, StartOf({Span(0, 3, 1, 0), Span(0, 9, 1, 400)}));
  EXPECT_THAT(known.spans, ElementsAre(Span(0, 3, 1, 0), Span(0, 9, 1, 400, ImageProfile::kWeightNew)));
  EXPECT_EQ(known.runs, 2u + static_cast<uint32_t>(starts));
}

TEST(MergedTest, WhatMayHaveBeenTouchedUnseenIsKept) {
  ImageProfile known = Merged({}, StartOf({Span(0, 3, 1, 0), Span(1, 9, 1, 500)}));
  for (int i = 0; i < 20; ++i) known = Merged(known, StartOf({Span(0, 3, 1, 0)}, {1}));
  EXPECT_THAT(known.spans, ElementsAre(Span(0, 3, 1, 0), Span(1, 9, 1, 500)));
}

TEST(MergedTest, WhatIsNeededLastIsLeftOutOfManyStarts) {
  ImageProfile known;
  for (uint32_t start = 0; start < 3; ++start) {
    FirstTouches touches({kChunksPerBlobMax});
    for (uint32_t i = 0; i < ImageProfile::kSpansMax; ++i)
      touches.Note(0, {ChunkIndex(8 * i + 2 * start), 1}, milliseconds(i));
    known = Merged(known, touches.start());
  }
  ASSERT_EQ(known.spans.size(), ImageProfile::kSpansMax);
  EXPECT_LT(known.spans.back().after_ms, ImageProfile::kSpansMax / 2);
}

TEST(MergedTest, TimesFollowTheLastStarts) {
  ImageProfile known = Merged({}, StartOf({Span(0, 1, 1, 0), Span(0, 5, 1, 1000)}));
  for (int i = 0; i < 20; ++i) known = Merged(known, StartOf({Span(0, 5, 1, 0), Span(0, 1, 1, 1000)}));
  ASSERT_EQ(known.spans.size(), 2u);
  EXPECT_EQ(known.spans[0].chunks.first, ChunkIndex(5)) << "what is needed first stands first";
}

// Beside a plain model: per chunk, what the rules say.
TEST(MergedTest, SeedsAgreeWithAModelByChunk) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    std::map<std::pair<uint32_t, uint32_t>, int> weights;  // the model
    ImageProfile known;
    for (int run = 0; run < 8; ++run) {
      FirstTouches touches({40, 40, 40});
      if (random() % 3 == 0) touches.SetBlind(static_cast<uint32_t>(random() % 3));
      uint32_t at_ms = 0;
      for (int i = 0; i < 30; ++i) {
        const auto first = static_cast<uint32_t>(random() % 40);
        const auto count = static_cast<uint32_t>(1 + random() % (40 - first));
        touches.Note(static_cast<uint32_t>(random() % 3), {ChunkIndex(first), count}, milliseconds(at_ms));
        at_ms += static_cast<uint32_t>(random() % 100);
      }
      const ImageProfile& start = touches.start();
      std::set<std::pair<uint32_t, uint32_t>> touched;
      for (const ProfileSpan& span : start.spans) {
        for (uint32_t c = 0; c < span.chunks.count; ++c) {
          const bool fresh = touched.emplace(span.blob, span.chunks.first.value() + c).second;
          ASSERT_TRUE(fresh) << "seed " << seed;
        }
      }
      for (auto it = weights.begin(); it != weights.end();) {
        int& weight = it->second;
        const bool blind = std::count(start.blind.begin(), start.blind.end(), it->first.first) > 0;
        if (touched.contains(it->first)) {
          weight += (255 - weight + 3) / 4;
        } else if (!blind) {
          weight -= (weight + 3) / 4;
        }
        it = weight < ImageProfile::kWeightMin ? weights.erase(it) : std::next(it);
      }
      for (const auto& place : touched)
        weights.emplace(place, known.runs == 0 ? 255 : int{ImageProfile::kWeightNew});
      known = Merged(known, start);
      std::map<std::pair<uint32_t, uint32_t>, int> got;
      uint32_t last_ms = 0;
      for (const ProfileSpan& span : known.spans) {
        EXPECT_GE(span.after_ms, last_ms) << "seed " << seed;
        last_ms = span.after_ms;
        for (uint32_t c = 0; c < span.chunks.count; ++c)
          EXPECT_TRUE(got.emplace(std::pair(span.blob, span.chunks.first.value() + c), span.weight).second);
      }
      ASSERT_EQ(got, weights) << "seed " << seed << ", run " << run;
    }
  }
}

}  // namespace
}  // namespace sluice
