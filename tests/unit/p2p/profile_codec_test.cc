#include "p2p/cluster/profile_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sluice::p2p {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

Digest Manifest() {
  std::array<uint8_t, 32> bytes{42};
  return Digest(bytes);
}

StartRecord Record(const std::string& recorder = "a", uint64_t number = 1) {
  return {Manifest(),
          recorder,
          number,
          ImageAccess::kPublic,
          {1, {{0, {ChunkIndex(3), 2}, 0}, {499, {ChunkIndex(65535), 1}, UINT32_MAX, 64}}, {1, 7}}};
}

TEST(ProfileCodecTest, WhatIsWrittenIsReadBack) {
  const std::optional<StartRecord> start = ParseStart(FormatStart(Record()));
  ASSERT_TRUE(start);
  EXPECT_EQ(start->manifest, Manifest());
  EXPECT_EQ(start->recorder, "a");
  EXPECT_EQ(start->number, 1u);
  EXPECT_EQ(start->access, ImageAccess::kPublic);
  EXPECT_EQ(start->start, Record().start);

  KeptProfile kept;
  EXPECT_TRUE(kept.Merge(Record()));
  const std::optional<KeptProfile> again = ParseKept(FormatKept(kept));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->manifest, Manifest());
  EXPECT_EQ(again->access, ImageAccess::kPublic);
  EXPECT_EQ(again->profile, kept.profile);
  EXPECT_THAT(again->recorders, ElementsAre(Pair("a", 1)));
}

TEST(ProfileCodecTest, TheSameStartCountsOnce) {
  KeptProfile kept;
  EXPECT_TRUE(kept.Merge(Record("a", 5)));
  EXPECT_FALSE(kept.Merge(Record("a", 5)));
  EXPECT_TRUE(kept.Merge(Record("b", 5)));
  EXPECT_TRUE(kept.Merge(Record("a", 4))) << "its clock was set back";
  EXPECT_EQ(kept.profile.runs, 3u);
  for (int i = 0; i < 1000; ++i) kept.Merge(Record(absl::StrCat("node-", i)));
  EXPECT_EQ(kept.recorders.size(), KeptProfile::kRecordersMax);
  EXPECT_EQ(kept.recorders.back().first, "node-999");
}

TEST(ProfileCodecTest, TheLargestFits) {
  KeptProfile kept{Manifest(), ImageAccess::kPublic, {UINT32_MAX, {}, {}}, {}};
  for (uint32_t i = 0; i < ImageProfile::kSpansMax; ++i)
    kept.profile.spans.push_back({499, {ChunkIndex(65535), 1}, UINT32_MAX - i, 255});
  for (size_t i = 0; i < KeptProfile::kRecordersMax; ++i)
    kept.recorders.emplace_back(absl::StrCat(std::string(200, 'n'), i), UINT64_MAX);
  const std::string text = FormatKept(kept);
  EXPECT_LE(text.size(), kProfileBytesMax);
  EXPECT_TRUE(ParseKept(text));
}

TEST(ProfileCodecTest, WhatIsMalformedIsNothing) {
  const std::string good = FormatStart(Record());
  ASSERT_TRUE(ParseStart(good));
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"version\":1", "\"version\":2"},
           {"\"version\":1", "\"version\":\"1\""},
           {"\"runs\":1", "\"runs\":2"},
           {"\"runs\":1", "\"runs\":0"},
           {"\"runs\":1", "\"runs\":-1"},
           {"\"recorder\":\"a\"", "\"recorder\":\"\""},
           {"\"recorder\":\"a\"", absl::StrCat("\"recorder\":\"", std::string(5000, 'x'), "\"")},
           {"\"number\":1", "\"number\":1.5"},
           {"sha256:", "sha512:"},
           {"[0,3,2,0,255]", "[500,3,2,0,255]"},
           {"[0,3,2,0,255]", "[0,65536,1,0,255]"},
           {"[0,3,2,0,255]", "[0,65535,2,0,255]"},
           {"[0,3,2,0,255]", "[0,3,0,0,255]"},
           {"[0,3,2,0,255]", "[0,3,2,0,256]"},
           {"[0,3,2,0,255]", "[0,3,2,4294967296,255]"},
           {"[0,3,2,0,255]", "[0,3,2,0]"},
           {"[0,3,2,0,255]", "[0,3,2,0,255,0]"},
           {"[0,3,2,0,255]", "[0,-3,2,0,255]"},
           {"[0,3,2,0,255]", "[0,\"3\",2,0,255]"},
           {"[0,3,2,0,255]", "[0,0,60000,0,255],[1,0,60000,0,255]"},
           {"\"blind\":[1,7]", "\"blind\":[7,1]"},
           {"\"blind\":[1,7]", "\"blind\":[500]"},
           {"\"blind\":[1,7]", "\"blind\":7"},
       }) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good) << from;
    EXPECT_FALSE(ParseStart(bad)) << to;
  }
  for (size_t length = 0; length < good.size(); length += 7) EXPECT_FALSE(ParseStart(good.substr(0, length)));
  for (const char* text : {"", "null", "[]", "{}", "7", "\"x\"", "{\"version\":1}"}) {
    EXPECT_FALSE(ParseStart(text)) << text;
    EXPECT_FALSE(ParseKept(text)) << text;
  }
  EXPECT_FALSE(ParseStart(good + std::string(kProfileBytesMax, ' '))) << "beyond the bound";
}

}  // namespace
}  // namespace sluice::p2p
