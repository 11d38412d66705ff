// How much of a blob other nodes have, and which chunks: what its ranks answer, what this node was told
// itself, and what the holders say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/holder_codec.h"
#include "p2p/cluster/holders.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"
#include "tests/unit/p2p/fake_transport.h"

namespace sluice::p2p {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Members that answer when the test says so.
class HoldersTransport final : public FakeTransport {
 public:
  using FakeTransport::FakeTransport;
  void Ask(const Member& member, const Question& question, OnAnswer on_answer) override {
    EXPECT_TRUE(question.body.empty() || IsFill(question.fetch_class)) << "readers come first";
    FakeTransport::Ask(member, question, std::move(on_answer));
  }
};

class HolderSharesTest : public ::testing::Test {
 protected:
  HolderSharesTest() {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf(0);
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));  // not started: it has nothing to resolve
    for (int i = 1; i < 8; ++i) {
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom(RowOf(i), RowOf(i).addresses.front(), now);
      });
    }
    holders_ = std::make_unique<Holders>(Holders::Parts{clock_, io_, *members_, health_, transport_,
                                                        [this] { return held_; }, [] { return 0.5; },
                                                        [this](const BlobIdentity& blob) {
                                                          EXPECT_EQ(blob, blob_);
                                                          return present_;
                                                        }});
  }
  static MemberRow RowOf(int number) {
    return {absl::StrCat("node-", number),
            {{"127.0.0.1", static_cast<uint16_t>(1 + number)}},
            "",
            kProtocolMajor,
            1};
  }
  void SaidToHave(const std::string& name, uint64_t bytes) {
    EXPECT_TRUE(holders_->Take(FormatAnnouncement({name, {{blob_, false, bytes}}, {}})).ok());
  }
  // What is answered; the outer is empty before.
  using Shares = std::shared_ptr<std::optional<std::optional<std::vector<HolderShare>>>>;
  Shares Ask() {
    auto shares = std::make_shared<std::optional<std::optional<std::vector<HolderShare>>>>();
    holders_->AskShares(blob_, [shares](auto told) {
      EXPECT_FALSE(shares->has_value()) << "twice";
      *shares = std::move(told);
    });
    return shares;
  }

  // The ranks answer that, or nothing.
  void AskHolders(absl::StatusOr<std::string> answer = absl::UnavailableError("it is away")) {
    bool done = false;
    holders_->Ask(blob_, FetchClass::kDemand, [&] { done = true; });
    while (!transport_.asked.empty()) transport_.Answer(answer);
    EXPECT_TRUE(done);
  }
  std::vector<std::string> Known() const {
    std::vector<std::string> names;
    const std::optional<std::vector<BlobHolder>> known = holders_->Known(blob_);
    for (const BlobHolder& holder : *known) names.push_back(holder.name);
    return names;
  }
  std::shared_ptr<const ChunkSet> PresentOf(const std::string& name) const {
    const std::optional<std::vector<BlobHolder>> known = holders_->Known(blob_);
    for (const BlobHolder& holder : *known)
      if (holder.name == name) return holder.present;
    return nullptr;
  }

  std::optional<ChunkSet> present_;  // that this node has
  const BlobIdentity blob_{Sha256::Of("blob"), 1 << 20, 256 << 10, Sha256::Of("root")};
  fakes::FakeClock clock_;
  fakes::ManualExecutor io_{clock_};
  MemberHealth health_;
  std::vector<HeldBlob> held_;
  HoldersTransport transport_{clock_};
  std::unique_ptr<Members> members_;
  std::unique_ptr<Holders> holders_;
};

TEST_F(HolderSharesTest, OfWhatTheRanksSayTheMostCounts) {
  SaidToHave("node-1", 100);
  const Shares shares = Ask();
  ASSERT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked));
  for (const PeerTransport::Question& question : transport_.questions)
    EXPECT_THAT(question.path_and_query, EndsWith(kSharesQuery));
  transport_.Answer(FormatShares({{"node-1", 50}, {"node-2", 7}}));
  transport_.Answer(absl::UnavailableError("it is away"));
  EXPECT_FALSE(shares->has_value()) << "one has not answered yet";
  transport_.Answer(FormatShares({{"node-2", 9}}));
  ASSERT_TRUE(shares->has_value());
  ASSERT_TRUE(shares->value().has_value());
  EXPECT_THAT(*shares->value(), ElementsAre(HolderShare{"node-1", 100}, HolderShare{"node-2", 9}));
}

TEST_F(HolderSharesTest, WhereManyAreToBeToldSomeAreAtATimeAndAllInTheEnd) {
  for (int i = 8; i < 200; ++i) {
    members_->Change(
        [&](MemberTable& table, Instant now) { table.HeardFrom(RowOf(i), RowOf(i).addresses.front(), now); });
  }
  for (int i = 0; i < 1000; ++i) {
    const Digest blob = Sha256::Of(absl::StrCat("blob ", i));
    held_.push_back({{blob, 1 << 20, 256 << 10, Sha256::Of("root")}, true, 1 << 20});
  }
  holders_->Start();
  io_.Run();
  ASSERT_THAT(transport_.asked, SizeIs(32));
  std::vector<std::string> told;
  for (const auto& [name, on_answer] : transport_.asked) told.push_back(name);
  EXPECT_FALSE(std::is_sorted(told.begin(), told.end())) << "all nodes would begin with the same ones";
  clock_.now += Holders::kTick;
  io_.Run();
  EXPECT_THAT(transport_.asked, SizeIs(32)) << "one after the other";
  std::set<std::string> all(told.begin(), told.end());
  for (int round = 0; round < 20; ++round) {
    while (!transport_.asked.empty()) {
      all.insert(transport_.asked.front().first);
      transport_.Answer(std::string("{}"));
    }
    clock_.now += Holders::kTick;
    io_.Run();
  }
  EXPECT_THAT(all, SizeIs(199));
  EXPECT_THAT(transport_.asked, IsEmpty()) << "each once";
  holders_->Stop();
}

TEST_F(HolderSharesTest, WhoDoesNotAnswerIsLeftOut) {
  const Shares shares = Ask();
  members_->Change([](MemberTable& table, Instant now) { table.NoteSilence("node-1", now); });
  for (int i = 0; i < 3; ++i) transport_.Answer(FormatShares({{"node-1", 50}, {"node-2", 7}}));
  ASSERT_TRUE(shares->has_value() && shares->value().has_value());
  EXPECT_THAT(*shares->value(), ElementsAre(HolderShare{"node-2", 7}));
}

TEST_F(HolderSharesTest, ThatNobodyHasItIsAnAnswerToo) {
  const Shares shares = Ask();
  transport_.Answer(FormatShares({}));
  for (int i = 1; i < 3; ++i) transport_.Answer(absl::UnavailableError("it is away"));
  ASSERT_TRUE(shares->has_value());
  ASSERT_TRUE(shares->value().has_value());
  EXPECT_THAT(*shares->value(), IsEmpty());
}

TEST_F(HolderSharesTest, WhereNobodyAnswersNothingIsKnown) {
  const Shares shares = Ask();
  // Who does not know of shares does not tell them.
  transport_.Answer(FormatHolders({"node-1"}));
  transport_.Answer(std::string("no JSON"));
  transport_.Answer(absl::UnavailableError("it is away"));
  ASSERT_TRUE(shares->has_value());
  EXPECT_FALSE(shares->value().has_value());
}

TEST_F(HolderSharesTest, WhatFillsWaitForIsAskedALittleLater) {
  int done = 0;
  for (int i = 0; i < 2; ++i) holders_->Ask(blob_, FetchClass::kBackfill, [&] { ++done; });
  io_.Run();
  EXPECT_THAT(transport_.asked, IsEmpty());
  clock_.now += 8 * Holders::kFillWaitOfEach;
  io_.Run();
  ASSERT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked)) << "once";
  while (!transport_.asked.empty()) transport_.Answer(FormatShares({{"node-2", 9}}));
  EXPECT_EQ(done, 2);
  EXPECT_THAT(Known(), ElementsAre("node-2"));
}

TEST_F(HolderSharesTest, AReaderDoesNotWaitForAFill) {
  int done = 0;
  holders_->Ask(blob_, FetchClass::kHint, [&] { ++done; });
  holders_->Ask(blob_, FetchClass::kReadahead, [&] { ++done; });
  ASSERT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked));
  holders_->Hurry(blob_);
  clock_.now += std::chrono::seconds(1);
  io_.Run();
  EXPECT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked)) << "once";
  while (!transport_.asked.empty()) transport_.Answer(FormatShares({}));
  EXPECT_EQ(done, 2);
  holders_->Hurry(blob_);
  EXPECT_THAT(transport_.asked, IsEmpty()) << "nobody waits any more";

  holders_->Ask(blob_, FetchClass::kHint, [&] { ++done; });
  holders_->Hurry(blob_);
  EXPECT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked));
}

TEST_F(HolderSharesTest, HoweverManyMembersThereAreTheWaitIsShort) {
  members_->Change([&](MemberTable& table, Instant now) {
    for (int i = 8; i < 8000; ++i) table.HeardFrom(RowOf(i), RowOf(i).addresses.front(), now);
  });
  holders_->Ask(blob_, FetchClass::kBackfill, [] {});
  clock_.now += Holders::kFillWaitMax / 2;
  io_.Run();
  EXPECT_THAT(transport_.asked, SizeIs(Holders::kRanksAsked));
}

TEST_F(HolderSharesTest, WhoHasSomeIsAskedWhichChunksWhenItLacksOne) {
  SaidToHave("node-1", 100);
  SaidToHave("node-2", blob_.size);
  AskHolders();
  ASSERT_THAT(Known(), ElementsAre("node-2", "node-1"));
  holders_->NoteLacks(blob_, "node-1");
  holders_->NoteLacks(blob_, "node-1");
  ASSERT_THAT(transport_.asked, SizeIs(1)) << "once";
  EXPECT_EQ(transport_.asked[0].first, "node-1");
  EXPECT_EQ(transport_.questions.back().path_and_query, FormatPresencePath(blob_));
  EXPECT_THAT(Known(), ElementsAre("node-2", "node-1")) << "it may have the next";
  ChunkSet present(4);
  present.Add(ChunkIndex(2));
  transport_.Answer(FormatPresence(present));
  ASSERT_TRUE(PresentOf("node-1"));
  EXPECT_EQ(*PresentOf("node-1"), present);
  EXPECT_FALSE(PresentOf("node-2"));
  clock_.now += Holders::kAnswerKept;
  AskHolders();
  EXPECT_THAT(Known(), ElementsAre("node-2", "node-1")) << "as it was told";
  holders_->NoteLacks(blob_, "node-1");
  transport_.Answer(FormatPresence(present));
  clock_.now += Holders::kPresenceKept;
  EXPECT_FALSE(PresentOf("node-1")) << "by now it may have more";
  holders_->NoteLacks(blob_, "node-1");
  EXPECT_THAT(transport_.asked, SizeIs(1));
  transport_.Answer(FormatPresence(present));
  holders_->NoteLacks(blob_, "node-1");
  EXPECT_THAT(transport_.asked, IsEmpty());
  EXPECT_THAT(Known(), ElementsAre("node-2")) << "it has lost what it said";
  holders_->NoteLacks(blob_, "node-2");
  EXPECT_THAT(transport_.asked, IsEmpty()) << "so has who said to have all";
  EXPECT_THAT(Known(), IsEmpty());
}

TEST_F(HolderSharesTest, WhoDoesNotSayWhichChunksItHasHasNone) {
  const absl::StatusOr<std::string> answers[] = {absl::NotFoundError("it is not here"),
                                                 absl::UnavailableError("it is away"), std::string("{}"),
                                                 FormatPresence(ChunkSet(100))};
  for (const absl::StatusOr<std::string>& answer : answers) {
    clock_.now += Holders::kAnswerKept;
    SaidToHave("node-1", 100);
    AskHolders();
    ASSERT_THAT(Known(), ElementsAre("node-1"));
    holders_->NoteLacks(blob_, "node-1");
    ASSERT_THAT(transport_.asked, SizeIs(1));
    transport_.Answer(answer);
    EXPECT_THAT(Known(), IsEmpty());
  }
}

TEST_F(HolderSharesTest, FewAreAskedWhichChunksTheyHaveAtOnce) {
  for (int i = 1; i < 8; ++i) SaidToHave(absl::StrCat("node-", i), 100);
  AskHolders();
  ASSERT_THAT(Known(), SizeIs(7));
  for (int i = 1; i < 8; ++i) holders_->NoteLacks(blob_, absl::StrCat("node-", i));
  EXPECT_THAT(transport_.asked, SizeIs(Holders::kPresenceAskedMax));
  EXPECT_THAT(Known(), SizeIs(Holders::kPresenceAskedMax));
}

// Of an older build.
TEST_F(HolderSharesTest, WhereItIsNotToldHowMuchEachHasNobodyIsTakenToHaveAll) {
  AskHolders(FormatHolders({"node-3"}));
  ASSERT_THAT(Known(), ElementsAre("node-3"));
  holders_->NoteLacks(blob_, "node-3");
  EXPECT_THAT(transport_.asked, SizeIs(1));
}

TEST_F(HolderSharesTest, WhatThisNodeHasIsTold) {
  const std::string digest = blob_.digest.ToString(), root = blob_.root.ToString();
  const Holders::Question question{digest, "1048576", "262144", root};
  EXPECT_TRUE(absl::IsNotFound(holders_->AnswerPresence(question).status()));
  present_ = ChunkSet(4);
  present_->Add(ChunkIndex(1));
  EXPECT_EQ(*holders_->AnswerPresence(question), FormatPresence(*present_));
  EXPECT_TRUE(absl::IsInvalidArgument(holders_->AnswerPresence({digest, "x", "262144", root}).status()));
}

TEST_F(HolderSharesTest, OnlyMembersAreTold) {
  SaidToHave("node-1", 100);
  SaidToHave("node-2", 50);
  const std::string digest = blob_.digest.ToString(), root = blob_.root.ToString();
  const auto answer = [&](const char* shares) {
    return holders_->Answer({digest, "1048576", "262144", root, shares});
  };
  EXPECT_EQ(answer("1"), FormatShares({{"node-1", 100}, {"node-2", 50}}));
  EXPECT_FALSE(ParseShares(answer("")));
  EXPECT_THAT(*ParseHolders(answer("")), SizeIs(2));
  members_->Change([&](MemberTable& table, Instant now) {
    table.NoteSilence("node-1", now);
    std::set<HostPort> others;
    for (int i = 2; i < 8; ++i) others.insert(RowOf(i).addresses.front());
    table.SetAddresses({}, others, others, now);
  });
  EXPECT_EQ(answer("1"), FormatShares({{"node-2", 50}}));
}

}  // namespace
}  // namespace sluice::p2p
