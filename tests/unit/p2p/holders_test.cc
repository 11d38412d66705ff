// Who has which blobs: the table, what is announced to whom, and how it is written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/announcements.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/holder_codec.h"
#include "p2p/cluster/holder_table.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

BlobIdentity Identity(int number) {
  return {Sha256::Of(absl::StrCat("blob ", number)), 1 << 20, 256 << 10, Sha256::Of("root")};
}

class HolderTableTest : public ::testing::Test {
 protected:
  std::vector<std::string> Find(int number, size_t count = 100) const {
    return table_.Find(Identity(number), count, now_, [](size_t) { return size_t{0}; });
  }
  HolderTable table_;
  Instant now_{1h};
};

TEST_F(HolderTableTest, GivesThoseThatHaveAllOfItFirst) {
  table_.Add({Identity(1), false}, "a", now_);
  table_.Add({Identity(1), true}, "b", now_);
  table_.Add({Identity(2), true}, "c", now_);
  EXPECT_THAT(Find(1), ElementsAre("b", "a"));
  EXPECT_THAT(Find(1, 1), ElementsAre("b"));
  table_.Add({Identity(1), false}, "b", now_);
  table_.Add({Identity(1), true}, "a", now_);
  EXPECT_THAT(Find(1), ElementsAre("a", "b")) << "what was said last counts";
  EXPECT_THAT(Find(3), IsEmpty());
}

TEST_F(HolderTableTest, AnotherRootIsAnotherBlob) {
  BlobIdentity other = Identity(1);
  other.root = Sha256::Of("another root");
  table_.Add({other, true}, "a", now_);
  EXPECT_THAT(Find(1), IsEmpty());
}

TEST_F(HolderTableTest, WhatNobodyRepeatsIsForgotten) {
  table_.Add({Identity(1), true}, "a", now_);
  now_ += 10min;
  table_.Add({Identity(1), true}, "b", now_);
  now_ += 2min;
  EXPECT_THAT(Find(1), ElementsAre("b"));
  table_.Expire(now_);
  now_ += 10min;
  table_.Expire(now_);
  EXPECT_EQ(table_.blob_count(), 0u);
}

TEST_F(HolderTableTest, WhoLacksItIsRemoved) {
  table_.Add({Identity(1), true}, "a", now_);
  table_.Remove(Identity(1), "b");
  table_.Remove(Identity(2), "a");
  EXPECT_THAT(Find(1), ElementsAre("a"));
  table_.Remove(Identity(1), "a");
  EXPECT_EQ(table_.blob_count(), 0u);
}

TEST_F(HolderTableTest, OfWhoHasSomeItSaysNothingThatItLacksAChunk) {
  table_.Add({Identity(1), true}, "a", now_);
  table_.Add({Identity(1), false}, "b", now_);
  for (const char* const holder : {"a", "b", "c"}) table_.NoteLacks(Identity(1), holder);
  table_.NoteLacks(Identity(2), "a");
  EXPECT_THAT(Find(1), ElementsAre("b"));
}

TEST_F(HolderTableTest, HasBounds) {
  for (size_t i = 0; i < HolderTable::kHoldersMax + 10; ++i) {
    table_.Add({Identity(1), true}, absl::StrCat("node-", i), now_ + std::chrono::seconds(i));
  }
  const std::vector<std::string> names = Find(1, 1000);
  EXPECT_THAT(names, SizeIs(HolderTable::kHoldersMax));
  EXPECT_EQ(std::count(names.begin(), names.end(), "node-0"), 0) << "the one heard of longest ago goes";
  for (size_t i = 0; i < HolderTable::kBlobsMax + 10; ++i)
    table_.Add({Identity(static_cast<int>(i)), true}, "a", now_);
  EXPECT_EQ(table_.blob_count(), HolderTable::kBlobsMax);
}

TEST_F(HolderTableTest, TellsWhoHasMost) {
  const BlobIdentity blob = Identity(1);
  table_.Add({blob, false, 5}, "a", now_);
  table_.Add({blob, true}, "b", now_);
  table_.Add({blob, false, 2 * blob.size}, "c", now_);
  table_.Add({blob, false, 7}, "d", now_);
  const auto shares = [&](size_t count_max) { return table_.Shares(blob, count_max, now_); };
  EXPECT_THAT(shares(10), ElementsAre(HolderShare{"b", blob.size}, HolderShare{"c", blob.size},
                                      HolderShare{"d", 7}, HolderShare{"a", 5}));
  EXPECT_THAT(shares(1), ElementsAre(HolderShare{"b", blob.size}));
  table_.Add({blob, false, 9}, "a", now_);
  EXPECT_EQ(shares(10).at(2), (HolderShare{"a", 9})) << "what was said last counts";
  now_ += HolderTable::kTtl;
  EXPECT_THAT(shares(10), IsEmpty());
}

class AnnouncementsTest : public ::testing::Test {
 protected:
  AnnouncementsTest() {
    for (int i = 0; i < 20; ++i) Join(absl::StrCat("node-", i));
    for (int i = 0; i < 100; ++i) held_.push_back({Identity(i), true});
  }
  void Join(const std::string& name) {
    members_.push_back({{"10.0.0.1", 5000}, name, ScoreKeyOf(name), name == "node-0", {}});
    starts_[name] = 1;
  }
  void Leave(const std::string& name) {
    std::erase_if(members_, [&](const Member& member) { return member.name == name; });
  }
  std::vector<Announcements::Batch> Due() {
    return announcements_.Due(
        MemberView(members_), held_, [&](const std::string& name) { return starts_[name]; }, now_);
  }
  void TellAll() {
    for (const auto& batch : Due()) Tell(batch);
  }
  // As a rank that keeps what it is told.
  void Tell(const Announcements::Batch& batch) {
    for (const HeldBlob& blob : batch.held) known_[batch.to.name].insert(blob.blob.digest);
    for (const BlobIdentity& blob : batch.gone) known_[batch.to.name].erase(blob.digest);
    announcements_.Told(batch, now_);
  }
  // Those that are to know of the blob, computed in another way.
  std::set<std::string> RanksOf(const Digest& digest) const {
    std::map<uint64_t, std::string> by_score;
    for (const Member& member : members_)
      by_score[BlobScore(ScoreKeyOf(digest), member.score_key)] = member.name;
    std::set<std::string> names;
    for (auto it = by_score.rbegin(); it != by_score.rend() && names.size() < 3; ++it)
      names.insert(it->second);
    names.erase("node-0");
    return names;
  }
  void ExpectAllKnow() {
    for (const HeldBlob& blob : held_) {
      for (const std::string& rank : RanksOf(blob.blob.digest))
        EXPECT_TRUE(known_[rank].contains(blob.blob.digest)) << rank;
    }
  }

  std::vector<Member> members_;
  std::map<std::string, uint64_t> starts_;
  std::vector<HeldBlob> held_;
  std::map<std::string, std::set<Digest>> known_;
  Announcements announcements_;
  Instant now_{1h};
};

TEST_F(AnnouncementsTest, TheThreeRanksOfEachBlobAreToldInOneRequestEach) {
  const auto batches = Due();
  EXPECT_LE(batches.size(), 19u);
  for (const auto& batch : batches) EXPECT_NE(batch.to.name, "node-0") << "this node itself";
  TellAll();
  ExpectAllKnow();
  size_t told = 0;
  for (const auto& [name, blobs] : known_) told += blobs.size();
  EXPECT_LE(told, 300u) << "and nobody else";
  EXPECT_THAT(Due(), IsEmpty()) << "once";
}

TEST_F(AnnouncementsTest, WhatWasNotTakenIsDueAgain) {
  auto batches = Due();
  ASSERT_GT(batches.size(), 1u);
  for (size_t i = 1; i < batches.size(); ++i) Tell(batches[i]);
  const auto again = Due();
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].to.name, batches[0].to.name);
}

TEST_F(AnnouncementsTest, ANewRankIsToldAndOneThatStartedAgainAnew) {
  TellAll();
  Join("node-99");
  TellAll();
  ExpectAllKnow();
  EXPECT_FALSE(known_["node-99"].empty());
  known_["node-5"].clear();
  starts_["node-5"] = 2;
  for (const auto& batch : Due()) EXPECT_EQ(batch.to.name, "node-5");
  TellAll();
  ExpectAllKnow();
  Leave("node-7");
  TellAll();
  ExpectAllKnow();
}

TEST_F(AnnouncementsTest, AnAnswerForAProcessThatHasGoneCountsForNothing) {
  const auto before = Due();
  for (auto& [name, start] : starts_) start = 2;
  (void)Due();
  for (const auto& batch : before) announcements_.Told(batch, now_);
  TellAll();
  ExpectAllKnow();
}

TEST_F(AnnouncementsTest, AllIsRepeatedInTime) {
  TellAll();
  now_ += Announcements::kRepeat - 1s;
  EXPECT_THAT(Due(), IsEmpty());
  now_ += 1s;
  known_.clear();
  TellAll();
  ExpectAllKnow();
}

TEST_F(AnnouncementsTest, WhatIsGoneOrWholeNowIsTold) {
  held_[3].whole = false;
  TellAll();
  held_[3].whole = true;
  auto batches = Due();
  ASSERT_FALSE(batches.empty());
  for (const auto& batch : batches) EXPECT_THAT(batch.held, SizeIs(1));
  TellAll();
  const BlobIdentity gone = held_[3].blob;
  held_.erase(held_.begin() + 3);
  batches = Due();
  ASSERT_FALSE(batches.empty());
  for (const auto& batch : batches) EXPECT_THAT(batch.gone, ElementsAre(gone));
  TellAll();
  for (const auto& [name, blobs] : known_) EXPECT_FALSE(blobs.contains(gone.digest)) << name;
  EXPECT_THAT(Due(), IsEmpty());
}

TEST_F(AnnouncementsTest, WhereThereIsMoreOfABlobThatIsToldNowAndThen) {
  held_ = {{Identity(1), false, 1000}};
  TellAll();
  held_[0].present_bytes = 2000;
  now_ += Announcements::kRepeatChanged - 1s;
  EXPECT_THAT(Due(), IsEmpty());
  now_ += 1s;
  const auto batches = Due();
  ASSERT_FALSE(batches.empty());
  EXPECT_EQ(batches[0].held[0].present_bytes, 2000u);
  TellAll();
  now_ += Announcements::kRepeatChanged;
  EXPECT_THAT(Due(), IsEmpty()) << "nothing has changed";
}

// What is on the wire is the protocol: two builds must agree on it.
TEST(HolderCodecTest, AnAnnouncementIsWrittenLikeThis) {
  const BlobIdentity blob{Sha256::Of("abc"), 524288, 262144, Sha256::Of("")};
  const std::string digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  const std::string root = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  const std::string text = R"({"gone":[{"chunk":262144,"digest":")" + digest + R"(","root":")" + root +
                           R"(","size":524288}],"held":[{"chunk":262144,"digest":")" + digest +
                           R"(","root":")" + root + R"(","size":524288,"whole":true}],"holder":"node-1"})";
  EXPECT_EQ(FormatAnnouncement({"node-1", {{blob, true}}, {blob}}), text);
  const std::optional<Announcement> parsed = ParseAnnouncement(text);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->holder, "node-1");
  ASSERT_THAT(parsed->held, SizeIs(1));
  EXPECT_EQ(parsed->held[0].blob, blob);
  EXPECT_TRUE(parsed->held[0].whole);
  EXPECT_THAT(parsed->gone, ElementsAre(blob));
  EXPECT_EQ(FormatHoldersQuery(blob), "digest=" + digest + "&size=524288&chunk=262144&root=" + root);
  EXPECT_EQ(MakeBlobIdentity(digest, "524288", "262144", root), blob);
  EXPECT_EQ(FormatHolders({"a", "b"}), R"({"holders":["a","b"]})");
  EXPECT_THAT(*ParseHolders(R"({"holders":["a","b"],"more":1})"), ElementsAre("a", "b"));
  EXPECT_EQ(FormatShares({{"a", 7}, {"b", 0}}), R"({"holders":["a","b"],"present":[7,0]})");
  EXPECT_THAT(*ParseShares(FormatShares({{"a", 7}, {"b", 0}})),
              ElementsAre(HolderShare{"a", 7}, HolderShare{"b", 0}));
}

TEST(HolderCodecTest, HowMuchOfAPartThereIsIsWrittenToo) {
  const std::string text = FormatAnnouncement({"node-1", {{Identity(1), false, 4096}}, {}});
  EXPECT_NE(text.find(R"("present":4096,)"), std::string::npos) << text;
  const std::optional<Announcement> parsed = ParseAnnouncement(text);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->held.at(0).present_bytes, 4096u);
  EXPECT_FALSE(parsed->held.at(0).whole);
}

TEST(HolderCodecTest, WhichChunksThereAreIsWrittenLikeThis) {
  const BlobIdentity blob{Sha256::Of("abc"), 11 << 18, 1 << 18, Sha256::Of("")};
  EXPECT_EQ(FormatPresencePath(blob), "/sluice/v1/presence/" + blob.digest.ToString() +
                                          "?size=2883584&chunk=262144&root=" + blob.root.ToString());
  ChunkSet present(11);
  for (const uint32_t chunk : {0, 3, 8, 10}) present.Add(ChunkIndex(chunk));
  EXPECT_EQ(FormatPresence(present), R"({"present":"CQU="})");
  EXPECT_EQ(*ParsePresence(R"({"present":"CQU=","more":1})", 11), present);
  for (const uint32_t count : {1u, 8u, 63u, 64u, 65u, 1000u, kChunksPerBlobMax}) {
    ChunkSet some(count);
    for (uint32_t chunk = 0; chunk < count; chunk += 1 + chunk % 7) some.Add(ChunkIndex(chunk));
    const std::string text = FormatPresence(some);
    EXPECT_LE(text.size(), kPresenceBytesMax);
    EXPECT_EQ(*ParsePresence(text, count), some) << count;
  }
  EXPECT_EQ(ParsePresence(R"({"present":"//8="})", 11)->Count(), 11u) << "there are no more";
}

TEST(HolderCodecTest, APresenceThatIsNotOfSoManyChunksIsNone) {
  for (const char* const text :
       {"", "[]", "{}", R"({"present":7})", R"({"present":"CQ=="})", R"({"present":"CQUA"})",
        R"({"present":"?"})", R"({"present":["CQU="]})", R"({"present":""})"}) {
    EXPECT_FALSE(ParsePresence(text, 11)) << text;
  }
}

TEST(HolderCodecTest, SharesThatAreNotThoseOfTheHoldersAreNone) {
  for (const char* const text :
       {R"({"holders":["a"]})", R"({"holders":["a"],"present":[]})", R"({"holders":["a"],"present":[-1]})",
        R"({"holders":["a"],"present":["1"]})", R"({"holders":["a"],"present":7})", R"({"present":[1]})",
        "[]", ""}) {
    EXPECT_FALSE(ParseShares(text)) << text;
  }
}

TEST(HolderCodecTest, WhatIsMalformedIsRefusedAndWhatCantBeIsLeftOut) {
  for (const std::string text : {"", "{", "[]", "null", "{}", R"({"holder":""})", R"({"holder":7})",
                                 R"({"holder":"a","held":{}})", R"({"holder":"a","gone":"x"})"})
    EXPECT_FALSE(ParseAnnouncement(text)) << text;
  const std::optional<Announcement> odd = ParseAnnouncement(
      R"({"holder":"a","held":[7,null,{},{"digest":"sha256:00","size":1,"chunk":16384,"root":"x"}],"x":1})");
  ASSERT_TRUE(odd);
  EXPECT_THAT(odd->held, IsEmpty());
  const std::string digest = Sha256::Of("abc").ToString();
  for (const auto& [size, chunk] : std::vector<std::pair<std::string, std::string>>{
           {"0", "262144"}, {"1", "0"}, {"1", "1000"}, {"-1", "262144"}, {"99999999999999999999", "262144"}})
    EXPECT_FALSE(MakeBlobIdentity(digest, size, chunk, digest)) << size << " " << chunk;
  for (const std::string text : {"", "{}", R"({"holders":7})", R"({"holders":[1]})", R"({"holders":[""]})"})
    EXPECT_FALSE(ParseHolders(text)) << text;
  std::vector<std::string> many(100, "a");
  EXPECT_THAT(*ParseHolders(FormatHolders(many)), SizeIs(kHoldersNamedMax));
}

}  // namespace
}  // namespace sluice::p2p
