#include "p2p/cluster/chunk_blame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr ChunkIndex kFirst{0}, kSecond{1};

class ChunkBlameTest : public ::testing::Test {
 protected:
  ChunkBlameTest() {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = {"node-0", {options.self}, "", kProtocolMajor, 1};
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));
    for (int i = 1; i < 8; ++i) {
      const Member member = MemberOf(i);
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom({member.name, {member.address}, "", kProtocolMajor, 1}, member.address, now);
      });
    }
    blame_ = std::make_unique<ChunkBlame>(ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, [this](const std::string& t) { warnings_.push_back(t); },
        [this](const std::string& t) { alarms_.push_back(t); },
        [this](const Digest&, const Digest&) { return manifest_; },
        [this](const Blob&) { return has_claim_; },
        [this](const Blob&) { return dropped_ += has_claim_, std::exchange(has_claim_, false); }});
  }

  static Member MemberOf(int i) {
    return {{"127.0.0.1", static_cast<uint16_t>(1 + i)}, absl::StrCat("node-", i), 0, false, {}};
  }
  SenderId Sender(int i, bool as_verified = true, std::vector<std::string> passed_on = {}) {
    return blame_->IdOf({MemberOf(i), 0, as_verified, std::move(passed_on)});
  }
  static BlobSpec Spec(const std::string& root) {
    BlobSpec spec{
        Sha256::Of("blob"), 8 * kChunkSizeMin, kChunkSizeMin, {}, {{"registry.example", "team/app"}}};
    if (!root.empty()) spec.root = Sha256::Of(root);
    return spec;
  }
  static std::vector<std::byte> Bytes(char c) { return {kChunkSizeMin, static_cast<std::byte>(c)}; }
  bool IsUsable(int i) { return health_.Usable(MemberOf(i), clock_.now); }
  std::vector<int> Banned() {
    std::vector<int> banned;
    for (int i = 1; i < 8; ++i) {
      if (!IsUsable(i)) banned.push_back(i);
    }
    return banned;
  }
  uint64_t BanCount(BanReason reason) { return telemetry_.peer_bans[static_cast<size_t>(reason)].value(); }

  fakes::FakeClock clock_;
  MemberHealth health_;
  Telemetry telemetry_;
  std::string manifest_ = "manifest sha256:abc of registry.example/team/app:1";
  std::vector<std::string> warnings_, alarms_;
  bool has_claim_ = true;  // of a member
  int dropped_ = 0;
  std::unique_ptr<Members> members_;
  std::unique_ptr<ChunkBlame> blame_;
  const Blob blob_{Spec("root")};
  Blob rootless_{Spec("")};
};

TEST_F(ChunkBlameTest, AWrongChunkBlamesNobodyUntilARightOneHasCome) {
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kFirst));
  blame_->SentWrong(Sender(3), blob_, kFirst);
  EXPECT_TRUE(blame_->IsInDoubt(blob_, kFirst));
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kSecond));
  EXPECT_THAT(Banned(), IsEmpty());
  blame_->Right(blob_, kSecond);
  EXPECT_THAT(Banned(), IsEmpty()) << "another chunk says nothing of it";
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3));
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kFirst));
  EXPECT_EQ(BanCount(BanReason::kVerified), 1u);
  EXPECT_THAT(health_.RecordOf("node-3", clock_.now).blame, HasSubstr("chunk 0"));
  EXPECT_THAT(health_.RecordOf("node-3", clock_.now).skip_reason, HasSubstr("banned"));
  clock_.now += kBanTime - 1s;
  EXPECT_THAT(Banned(), ElementsAre(3));
  clock_.now += 2s;
  EXPECT_THAT(Banned(), IsEmpty());
}

TEST_F(ChunkBlameTest, AClaimThatComesTwiceOrIsReplacedTakesTheDoubtsOfTheFirstAlong) {
  blame_->SentWrong(Sender(3), rootless_, kFirst);
  ASSERT_TRUE(blame_->IsInDoubt(rootless_, kFirst));
  int taken = 0;
  for (int i = 0; i < 2; ++i) blame_->TakeClaim(rootless_.key(), [&] { ++taken; });
  EXPECT_EQ(taken, 2);
  EXPECT_FALSE(blame_->IsInDoubt(rootless_, kFirst));
  blame_->Right(rootless_, kFirst);
  EXPECT_THAT(Banned(), IsEmpty()) << "its bytes were held against another claim";
  blame_->SentWrong(Sender(4), rootless_, kFirst);
  blame_->Right(rootless_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(4)) << "under the claim that there is now";
}

TEST_F(ChunkBlameTest, EveryoneWhoSentAChunkWrongIsBlamed) {
  blame_->SentWrong(Sender(3), blob_, kFirst);
  blame_->SentWrong(Sender(5), blob_, kFirst);
  blame_->SentWrong(Sender(5), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3, 5));
  EXPECT_EQ(health_.RecordOf("node-5", clock_.now).wrong_answers, 1u);
}

TEST_F(ChunkBlameTest, WhatTheRegistryGivesWrongTwiceIsTheClaimsFaultAndNobodys) {
  blame_->SentWrong(Sender(3), blob_, kFirst);
  blame_->SentWrong(Sender(4), blob_, kSecond);
  blame_->RegistryWrong(blob_, kFirst);
  EXPECT_FALSE(blame_->IsRefuted(blob_)) << "one transfer may go wrong";
  EXPECT_THAT(alarms_, IsEmpty());
  blame_->RegistryWrong(blob_, kFirst);
  EXPECT_TRUE(blame_->IsRefuted(blob_));
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kFirst));
  ASSERT_THAT(alarms_, SizeIs(1));
  EXPECT_THAT(alarms_[0], HasSubstr(manifest_));
  EXPECT_THAT(alarms_[0], HasSubstr(blob_.digest().ToString()));
  EXPECT_EQ(telemetry_.refuted_claims.value(), 1u);
  blame_->Right(blob_, kFirst);
  blame_->Right(blob_, kSecond);
  EXPECT_THAT(Banned(), IsEmpty());
  blame_->RegistryWrong(blob_, kSecond);
  blame_->RegistryWrong(blob_, kSecond);
  EXPECT_THAT(alarms_, SizeIs(1)) << "it is known";
  clock_.now += ChunkBlame::kRefutedKept;
  EXPECT_FALSE(blame_->IsRefuted(blob_)) << "the registry may have been wrong";
}

TEST_F(ChunkBlameTest, AClaimThatIsRefutedSaysNothingOfAnotherRoot) {
  blame_->RegistryWrong(blob_, kFirst);
  blame_->RegistryWrong(blob_, kFirst);
  ASSERT_TRUE(blame_->IsRefuted(blob_));
  const Blob other(Spec("another root"));
  EXPECT_FALSE(blame_->IsRefuted(other)) << "it has the same key";
  EXPECT_FALSE(blame_->IsInDoubt(other, kFirst));
}

TEST_F(ChunkBlameTest, OneBadTransferFromTheRegistryDoesNotSaveWhoLied) {
  blame_->SentWrong(Sender(3), blob_, kFirst);
  blame_->RegistryWrong(blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3));
  EXPECT_THAT(alarms_, IsEmpty());
}

TEST_F(ChunkBlameTest, WithoutAManifestTheRepositoryIsNamed) {
  manifest_.clear();
  blame_->RegistryWrong(blob_, kFirst);
  blame_->RegistryWrong(blob_, kFirst);
  ASSERT_THAT(alarms_, SizeIs(1));
  EXPECT_THAT(alarms_[0], HasSubstr("registry.example/team/app"));
}

// -------------------------------------------------------------------------------- bytes that are passed on

TEST_F(ChunkBlameTest, OfThoseWhoPassedUnverifiedBytesOnTheLastIsBlamed) {
  blame_->SentWrong(Sender(3, false, {"node-4", "node-5"}), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(5));
  EXPECT_EQ(BanCount(BanReason::kPassedOn), 1u);
  EXPECT_THAT(warnings_.back(), HasSubstr("node-3"));
}

TEST_F(ChunkBlameTest, WhoSentUnverifiedBytesAndNamesNobodyIsTheLast) {
  blame_->SentWrong(Sender(3, false), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3));
  EXPECT_EQ(BanCount(BanReason::kUnverified), 1u);
}

TEST_F(ChunkBlameTest, WhoSaysThatItHadVerifiedThemIsToBlameWhomeverItNames) {
  blame_->SentWrong(Sender(3, true, {"node-4"}), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3));
}

TEST_F(ChunkBlameTest, NobodyGetsAwayByNamingWhoIsNoMember) {
  blame_->SentWrong(Sender(3, false, {"node-4", "nobody"}), blob_, kFirst);
  blame_->SentWrong(Sender(6, false, {"nobody"}), blob_, kFirst);
  blame_->SentWrong(Sender(7, false, {"node-7"}), blob_, kSecond);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(4, 6));
  clock_.now += kBanTime;
  blame_->Right(blob_, kSecond);
  EXPECT_THAT(Banned(), ElementsAre(7));
}

TEST_F(ChunkBlameTest, WhatThisNodeGaveItselfBansNobody) {
  blame_->SentWrong(Sender(3, false, {"node-4", "node-0"}), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), IsEmpty());
  EXPECT_THAT(warnings_.back(), HasSubstr("from this node"));
}

TEST_F(ChunkBlameTest, WhoPassesBytesOnNamesWhomItHadThemFrom) {
  EXPECT_THAT(blame_->PassedOnBy(rootless_, kFirst), IsEmpty());
  blame_->Unproven(Sender(3, false, {"node-4"}), rootless_, kFirst, Bytes('a'));
  EXPECT_THAT(blame_->PassedOnBy(rootless_, kFirst), ElementsAre("node-3", "node-4"));
  blame_->Unproven(Sender(5, true, {"node-4"}), rootless_, kSecond, Bytes('a'));
  EXPECT_THAT(blame_->PassedOnBy(rootless_, kSecond), ElementsAre("node-5")) << "it had verified them";
}

TEST_F(ChunkBlameTest, ALongRowKeepsItsLast) {
  std::vector<std::string> row;
  for (int i = 0; i < 20; ++i) row.push_back(absl::StrCat("passer-", i));
  blame_->Unproven(Sender(3, false, row), rootless_, kFirst, Bytes('a'));
  const std::vector<std::string> names = blame_->PassedOnBy(rootless_, kFirst);
  EXPECT_THAT(names, SizeIs(ChunkSender::kPassedOnMax));
  EXPECT_EQ(names.front(), "node-3");
  EXPECT_EQ(names.back(), "passer-19");
}

// --------------------------------------------------------------------- what turns out to be wrong later

TEST_F(ChunkBlameTest, WhoSentWhatIsFoundWrongLaterIsBlamedWhenItHasComeRight) {
  blame_->Unproven(Sender(3, false), blob_, kFirst, Bytes('x'));
  blame_->Unproven(Sender(4, false), blob_, kFirst, Bytes('y'));
  blame_->FoundWrong(blob_, kFirst, Bytes('x'));
  EXPECT_TRUE(blame_->IsInDoubt(blob_, kFirst));
  EXPECT_THAT(Banned(), IsEmpty());
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3)) << "the other had sent other bytes";
}

TEST_F(ChunkBlameTest, WhatTheOwnDiskSpoiltBlamesNobody) {
  blame_->Unproven(Sender(3, false), blob_, kFirst, Bytes('x'));
  blame_->FoundWrong(blob_, kFirst, Bytes('z'));
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), IsEmpty());
  blame_->FoundWrong(blob_, kSecond, Bytes('z'));
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kSecond)) << "nobody sent it";
}

TEST_F(ChunkBlameTest, ABlobThatIsWrongAsAWholeIsHadFromTheRegistryAndTellsWhoLied) {
  EXPECT_FALSE(blame_->WholeWrong(rootless_)) << "no member had a part in it";
  blame_->Unproven(Sender(3, false), rootless_, kFirst, Bytes('x'));
  blame_->Unproven(Sender(4, false), rootless_, kSecond, Bytes('y'));
  blame_->RegistryGave(rootless_, kFirst, Bytes('r'));
  EXPECT_FALSE(blame_->IsRefuted(rootless_));
  ASSERT_TRUE(blame_->WholeWrong(rootless_));
  EXPECT_TRUE(blame_->IsRefuted(rootless_));
  blame_->RegistryGave(rootless_, kFirst, Bytes('r'));
  blame_->RegistryGave(rootless_, kSecond, Bytes('y'));
  EXPECT_THAT(Banned(), IsEmpty()) << "the registry may be wrong";
  EXPECT_THAT(blame_->PassedOnBy(rootless_, kFirst), IsEmpty()) << "the bytes are the registry's";
  blame_->Proven(rootless_);
  EXPECT_THAT(Banned(), ElementsAre(3));
  EXPECT_FALSE(blame_->IsRefuted(rootless_));
  EXPECT_THAT(blame_->PassedOnBy(rootless_, kSecond), IsEmpty()) << "it is proven";
  EXPECT_THAT(alarms_, IsEmpty());
}

TEST_F(ChunkBlameTest, ABlobThatIsProvenClearsWhoSentIt) {
  blame_->Unproven(Sender(3, false), rootless_, kFirst, Bytes('x'));
  blame_->RegistryGave(rootless_, kFirst, Bytes('r'));
  blame_->Proven(rootless_);
  EXPECT_THAT(Banned(), IsEmpty());
}

// What fits the recipe that a member gives is right as far as anybody knows.
TEST_F(ChunkBlameTest, WhoSendsWhatDoesNotFitTheRecipeOfAMemberIsBlamedIfTheRegistrysBytesDo) {
  blame_->SentWrong(Sender(3), rootless_, kFirst);
  EXPECT_TRUE(blame_->IsInDoubt(rootless_, kFirst));
  blame_->RegistryGave(rootless_, kFirst, Bytes('r'));
  EXPECT_THAT(Banned(), ElementsAre(3));
  EXPECT_EQ(dropped_, 0);
}

TEST_F(ChunkBlameTest, TheRecipeOfAMemberThatTheRegistrysBytesDontFitIsDroppedAndNobodyBlamed) {
  blame_->SentWrong(Sender(3), rootless_, kFirst);
  blame_->RegistryWrong(rootless_, kFirst);
  EXPECT_EQ(dropped_, 1);
  EXPECT_FALSE(blame_->IsInDoubt(rootless_, kFirst));
  EXPECT_FALSE(blame_->IsRefuted(rootless_)) << "members may be asked";
  EXPECT_THAT(alarms_, IsEmpty()) << "no manifest says so";
  blame_->RegistryGave(rootless_, kFirst, Bytes('r'));
  EXPECT_THAT(Banned(), IsEmpty());
}

// Chunks were compared with it while it was dropped; who sent them is found out about a moment later.
TEST_F(ChunkBlameTest, WhoDidNotFitTheRecipeOfAMemberThatHasBeenDroppedIsNotBlamed) {
  blame_->SentWrong(Sender(3), rootless_, kFirst);
  blame_->RegistryWrong(rootless_, kFirst);
  blame_->SentWrong(Sender(4), rootless_, kSecond);
  EXPECT_FALSE(blame_->IsInDoubt(rootless_, kSecond));
  blame_->RegistryGave(rootless_, kSecond, Bytes('r'));
  EXPECT_THAT(Banned(), IsEmpty());

  blame_->RegistryWrong(rootless_, kSecond);
  EXPECT_EQ(dropped_, 1);
  EXPECT_THAT(warnings_, SizeIs(2)) << "of the first chunk, and of the claim: once";
}

TEST_F(ChunkBlameTest, WhoDidNotFitTheRecipeOfAMemberIsNotBlamedForWhatFitsTheManifests) {
  blame_->SentWrong(Sender(3), rootless_, kFirst);
  blame_->SentWrong(Sender(3), rootless_, kSecond);
  rootless_.SetFacts(Spec("root"));
  blame_->Right(rootless_, kSecond);
  EXPECT_THAT(Banned(), IsEmpty());
  blame_->SentWrong(Sender(4), rootless_, kFirst);
  blame_->Right(rootless_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(4));
}

// ------------------------------------------------------------------------------------------ bounds

TEST_F(ChunkBlameTest, NoMoreThanAQuarterOfTheMembersIsBanned) {
  for (int i = 1; i < 8; ++i) blame_->SentWrong(Sender(i), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_EQ(BanCount(BanReason::kVerified), 2u) << "of eight";
  EXPECT_THAT(Banned(), SizeIs(7)) << "the others are skipped like those that fail";
  clock_.now += MemberHealth::kSkipFirst;
  EXPECT_THAT(Banned(), SizeIs(2));
}

TEST_F(ChunkBlameTest, WhoNamesEverOtherPassersIsBlamedItselfAndHasNobodyForgotten) {
  const SenderId other = Sender(4);
  SenderId last = 0;
  for (size_t i = 0; i < 2 * ChunkBlame::kSendersMax; ++i)
    last = Sender(3, false, {absl::StrCat("passer ", i), "node-5"});
  EXPECT_TRUE(blame_->Find(other).has_value());
  blame_->SentWrong(last, blob_, kFirst);
  blame_->Right(blob_, kFirst);
  EXPECT_THAT(Banned(), ElementsAre(3));
}

TEST_F(ChunkBlameTest, ABanIsByAddress) {
  blame_->SentWrong(Sender(3), blob_, kFirst);
  blame_->Right(blob_, kFirst);
  Member renamed = MemberOf(3);
  renamed.name = "renamed";
  EXPECT_FALSE(health_.Usable(renamed, clock_.now));
  Member elsewhere = MemberOf(4);
  elsewhere.name = "node-3";
  EXPECT_TRUE(health_.Usable(elsewhere, clock_.now)) << "who has its name is not it";
  elsewhere.more_addresses = {MemberOf(3).address};
  EXPECT_FALSE(health_.Usable(elsewhere, clock_.now));
}

TEST_F(ChunkBlameTest, ItRemembersSoMuchAndNoMore) {
  const SenderId first = Sender(1, false, {"first"});
  for (size_t i = 0; i < ChunkBlame::kSendersMax; ++i) {
    Member member = MemberOf(1);
    member.name = absl::StrCat("member ", i);
    blame_->IdOf({member, 0, false, {}});
  }
  EXPECT_FALSE(blame_->Find(first).has_value());
  blame_->SentWrong(first, blob_, kFirst);
  EXPECT_FALSE(blame_->IsInDoubt(blob_, kFirst)) << "nobody has that number";
  const SenderId sender = Sender(2);
  for (uint32_t i = 0; i < 2 * ChunkBlame::kInDoubtMax; ++i) blame_->SentWrong(sender, blob_, ChunkIndex(i));
  size_t in_doubt = 0;
  for (uint32_t i = 0; i < 2 * ChunkBlame::kInDoubtMax; ++i)
    in_doubt += blame_->IsInDoubt(blob_, ChunkIndex(i));
  EXPECT_EQ(in_doubt, ChunkBlame::kInDoubtMax);
}

}  // namespace
}  // namespace sluice::p2p
