// Who is offered for a chunk, and the budget of those that are not.
#include "p2p/cluster/directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/holder_codec.h"
#include "p2p/cluster/last_resort.h"
#include "p2p/cluster/pace.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class NoLedger final : public AccessLedger {
 public:
  void NoteAccess(const BlobKey&, const BlobOrigin&, OriginAccess) override {}
  OriginAccess AccessOf(const BlobKey&, const BlobOrigin&) const override { return OriginAccess::kUnknown; }
};

constexpr uint32_t kChunk = 256 << 10;

BlobSpec SpecOf(uint64_t chunks) {
  BlobSpec spec;
  spec.digest = Sha256::Of("blob");
  spec.size = chunks * kChunk;
  spec.chunk_size = kChunk;
  spec.root = Sha256::Of("root");
  spec.origins = {{"registry.example", "team/app"}};
  return spec;
}

// Members of which each says that everybody has to ask the registry for himself.
class RefusingTransport final : public PeerTransport {
 public:
  RequestId ReadChunk(const Member&, const ChunkQuestion&, OnData, OnSign, OnChunkDone on_done) override {
    ChunkOutcome refused;
    refused.status = absl::UnauthenticatedError("ask yourself");
    std::move(on_done)(std::move(refused));
    return {};
  }
  void Cancel(RequestId) override {}
  void Raise(RequestId, FetchClass) override {}
  void After(Duration, Task) override {}
  void Ask(const Member&, const Question& question, OnAnswer on_answer) override {
    if (question.path_and_query.starts_with(kPresencePath) && !presence.empty())
      return std::move(on_answer)(PeerTransport::Answer{"application/json", presence});
    std::move(on_answer)(absl::UnavailableError("it knows nobody"));
  }

  std::string presence;  // what all say of which chunks they have
};

class DirectoryTest : public ::testing::Test {
 protected:
  ~DirectoryTest() override {
    client_.Stop();
    io_.Run();
  }

  // A cluster of so many nodes, this one among them, of which each has answered long ago.
  void Use(int nodes, const std::string& self = "node-0") {
    std::set<std::string> names;
    for (int i = 0; i < nodes; ++i) names.insert(absl::StrCat("node-", i));
    Use(names, self);
  }
  void Use(const std::set<std::string>& names, const std::string& self) {
    directory_.reset();
    holders_.reset();
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf(self);
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));  // not started: it has nothing to resolve
    for (const std::string& name : names) {
      if (name != self) Answered(name);
    }
    clock_.now += 10s;
    blame_ = std::make_unique<ChunkBlame>(ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, [](const std::string&) {}, [](const std::string&) {}});
    holders_ =
        std::make_unique<Holders>(Holders::Parts{clock_, io_, *members_, health_, *holders_transport_,
                                                 [] { return std::vector<HeldBlob>(); }, [] { return 0.5; }});
    directory_ = std::make_unique<ClusterDirectory>(ClusterDirectory::Parts{
        clock_, io_, *members_, health_, *transport_, ledger_,
        [](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(true); },
        [this] { return cold_start_; }, [] { return 0.5; }, [](const std::string&) {}, download_, *holders_,
        origin_, last_resort_, *blame_, unsealed_});
  }
  static HostPort AddressOf(const std::string& name) {
    return {"127.0.0.1", static_cast<uint16_t>(1 + std::stoi(name.substr(5)))};  // nobody listens there
  }
  MemberRow RowOf(const std::string& name) const {
    const auto zone = zones_.find(name);
    return {name, {AddressOf(name)}, zone == zones_.end() ? "" : zone->second, kProtocolMajor, 1};
  }
  void Answered(const std::string& name) {
    members_->Change(
        [&](MemberTable& table, Instant now) { table.HeardFrom(RowOf(name), AddressOf(name), now); });
  }
  void Silent(const std::string& name) {
    members_->Change([&](MemberTable& table, Instant now) { table.NoteSilence(name, now); });
  }
  // It is silent, and DNS names only the others.
  void Gone(const std::string& name) {
    Silent(name);
    members_->Change([&](MemberTable& table, Instant now) {
      std::set<HostPort> others;
      for (const auto& [other, entry] : table.others()) {
        if (other != name) others.insert(AddressOf(other));
      }
      table.SetAddresses({}, others, others, now);
    });
  }
  void SaidToHave(const std::string& name, const Blob& blob) {
    EXPECT_TRUE(holders_->Take(FormatAnnouncement({name, {{*Holders::IdentityOf(blob), true}}, {}})).ok());
  }

  std::vector<SourceOffer> Offers(const Blob& blob, ChunkSpan span, Asker asker = Asker::kLocal) {
    std::vector<SourceOffer> offers;
    directory_->Offers(blob, span, FetchClass::kDemand, asker, nullptr, &offers);
    return offers;
  }
  // The same once homes are known.
  std::vector<SourceOffer> Settled(const Blob& blob, ChunkSpan span, Asker asker = Asker::kLocal) {
    HomesKnown(blob);
    return Offers(blob, span, asker);
  }
  void HomesKnown(const Blob& blob) {
    (void)directory_->FillOrder(blob, blob.geometry().All());  // computes them
    if (Holders::IdentityOf(blob)) AskHolders(blob);
  }
  void AskHolders(const Blob& blob) {
    std::promise<void> done;
    holders_->Ask(*Holders::IdentityOf(blob), FetchClass::kDemand, [&] { done.set_value(); });
    done.get_future().wait();  // their addresses lead nowhere
  }

  // As "home node-3" in the order of the ranks; the registry is "origin" or "last".
  std::vector<std::string> Texts(std::vector<SourceOffer> offers) {
    std::stable_sort(offers.begin(), offers.end(),
                     [](const SourceOffer& a, const SourceOffer& b) { return a.rank < b.rank; });
    std::vector<std::string> texts;
    for (const SourceOffer& offer : offers) {
      if (offer.source.get() == &origin_) {
        texts.push_back("origin");
      } else if (offer.source.get() == &last_resort_) {
        texts.push_back("last");
      } else if (const std::string name = health_.NameOf((static_cast<uint32_t>(offer.id) >> 2) - 2);
                 static_cast<uint32_t>(offer.id) > 5 && !name.empty()) {
        constexpr const char* kRanks[] = {"zone-home", "home",   "hedge",      "holder",
                                          "stand-in",  "second", "late-holder"};
        texts.push_back(absl::StrCat(kRanks[static_cast<int>(offer.rank)], " ", name));
      } else {
        texts.push_back("wait");
      }
    }
    return texts;
  }
  // The ranks of the blob's only stripe.
  std::vector<std::string> Ranks(const Blob& blob, size_t count = kRanks) {
    const std::shared_ptr<const MemberView> view = members_->view();
    const auto homes = HomesCache().HomesOf(blob.digest(), blob.geometry().size(), *view);
    std::vector<std::string> names;
    for (size_t rank = 0; rank < count; ++rank) {
      const MemberIndex index = homes->ranks[0][rank];
      if (index != kNoMember) names.push_back(view->members[index].name);
    }
    return names;
  }
  // A blob of one chunk of which node-0 has that rank of so many; `count`: it is none of them.
  Blob BlobWhereOwnRankIs(size_t rank, size_t count = kRanks, const std::string& name = "blob ") {
    for (int i = 0;; ++i) {
      BlobSpec spec = SpecOf(1);
      spec.digest = Sha256::Of(absl::StrCat(name, i));
      Blob blob(spec);
      const std::vector<std::string> ranks = Ranks(blob, count);
      if (static_cast<size_t>(std::find(ranks.begin(), ranks.end(), "node-0") - ranks.begin()) == rank)
        return Blob(spec);
    }
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor io_{clock_};
  Telemetry telemetry_;
  MemberHealth health_;
  PeerClient client_{telemetry_, {}};
  PeerTransport* transport_ = &client_;
  PeerTransport* holders_transport_ = &client_;
  NoLedger ledger_;
  fakes::FakeSource origin_, last_resort_;
  bool cold_start_ = false;
  Unsealed unsealed_ = Unsealed::kFromRegistry;
  std::map<std::string, std::string> zones_;  // of who has one
  std::unique_ptr<Members> members_;
  std::unique_ptr<ChunkBlame> blame_;
  DownloadBudget download_{clock_, 0};
  std::unique_ptr<Holders> holders_;
  std::unique_ptr<ClusterDirectory> directory_;
  const ChunkSpan one_{ChunkIndex(0), 1};
};

TEST_F(DirectoryTest, WithoutOtherMembersTheRegistryIsAskedByOwnRight) {
  Use(1);
  EXPECT_THAT(Texts(Offers(Blob(SpecOf(1)), one_)), ElementsAre("origin"));
  cold_start_ = true;
  EXPECT_THAT(Texts(Offers(Blob(SpecOf(1)), one_)), ElementsAre("wait")) << "names may not be resolved yet";
}

TEST_F(DirectoryTest, WhoIsNoRankAsksTheHomeThenThoseThatStandInAndTheRegistryAtTheVeryLast) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(3);
  const std::vector<std::string> ranks = Ranks(blob);
  EXPECT_THAT(Texts(Settled(blob, one_)),
              ElementsAre("home " + ranks[0], "hedge " + ranks[1], "hedge " + ranks[2],
                          "stand-in " + ranks[1], "second " + ranks[2], "last"));
}

TEST_F(DirectoryTest, TheHomeAsksTheOtherRanksForWhatTheyHaveAndThenTheRegistry) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(0);
  SaidToHave("node-0", blob);
  const std::vector<std::string> ranks = Ranks(blob, kRanksAsked);
  EXPECT_THAT(Texts(Settled(blob, one_)),
              ElementsAre("holder " + ranks[1], "holder " + ranks[2], "holder " + ranks[3],
                          "holder " + ranks[4], "holder " + ranks[5], "origin"))
      << "six, since nobody is said to have it but this node";
  const Blob held = BlobWhereOwnRankIs(1);
  SaidToHave(Ranks(held)[0], held);
  EXPECT_THAT(Texts(Settled(held, one_)),
              ElementsAre("home " + Ranks(held)[0], "hedge " + Ranks(held)[2], "origin"));
}

TEST_F(DirectoryTest, TheSecondRankStandsInItselfAndTheThirdAfterIt) {
  Use(8);
  const Blob second = BlobWhereOwnRankIs(1), third = BlobWhereOwnRankIs(2);
  for (const Blob* blob : {&second, &third}) SaidToHave(Ranks(*blob)[0], *blob);
  std::vector<std::string> ranks = Ranks(second);
  EXPECT_THAT(Texts(Settled(second, one_)), ElementsAre("home " + ranks[0], "hedge " + ranks[2], "origin"));
  ranks = Ranks(third);
  EXPECT_THAT(Texts(Settled(third, one_)),
              ElementsAre("home " + ranks[0], "hedge " + ranks[1], "stand-in " + ranks[1], "origin"));
}

TEST_F(DirectoryTest, WhoIsAskedByAnotherNodeWaitsForNoThird) {
  Use(8);
  for (const size_t own : {0, 1, 2, 3}) {
    const Blob blob = BlobWhereOwnRankIs(own);
    for (const SourceOffer& offer : Settled(blob, one_, Asker::kPeer)) {
      EXPECT_FALSE(MayWaitForOthers(offer.rank)) << own;
      EXPECT_NE(offer.rank, SourceRank::kHedge) << "it would be asked only when somebody is late";
    }
    EXPECT_EQ(Texts(Settled(blob, one_, Asker::kPeer)).back(), own < 3 ? "origin" : "last") << own;
  }
}

TEST_F(DirectoryTest, WithoutARootMembersAreAskedOnlyIfTheyAreBelieved) {
  BlobSpec spec = SpecOf(1);
  spec.root.reset();
  Use(8);
  EXPECT_THAT(Texts(Settled(Blob(spec), one_)), ElementsAre("origin"));
  unsealed_ = Unsealed::kFromMembers;
  Use(8);
  for (int i = 0; i < 20; ++i) {
    spec.digest = Sha256::Of(absl::StrCat("blob ", i));
    const Blob blob(spec);
    const std::vector<std::string> ranks = Ranks(blob);
    const std::vector<std::string> texts = Texts(Settled(blob, one_));
    ASSERT_GT(texts.size(), 2u);
    if (ranks[0] == "node-0") {
      EXPECT_EQ(texts.back(), "origin") << "it is had once for all";
    } else {
      EXPECT_EQ(texts.front(), "home " + ranks[0]);
    }
  }
}

TEST_F(DirectoryTest, OfAClaimThatIsRefutedNoMemberIsAsked) {
  Use(8);
  for (const size_t own : {0, 1, 2, 3}) {
    const Blob blob = BlobWhereOwnRankIs(own);
    blame_->RegistryWrong(blob, ChunkIndex(0));
    EXPECT_TRUE(directory_->IsInDoubt(blob, ChunkIndex(0)));
    EXPECT_GT(Settled(blob, one_).size(), 1u);
    blame_->RegistryWrong(blob, ChunkIndex(0));
    for (const Asker asker : {Asker::kLocal, Asker::kPeer}) {
      const std::vector<std::string> texts = Texts(Settled(blob, one_, asker));
      for (const std::string& text : texts)
        EXPECT_TRUE(text == (own < 3 ? "origin" : "last") || text == "wait") << text;
    }
    EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre(own < 3 ? "origin" : "last"));
  }
}

TEST_F(DirectoryTest, WhoIsBannedIsNotOffered) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(3);
  const std::vector<std::string> ranks = Ranks(blob);
  health_.Ban({AddressOf(ranks[0]), ranks[0], 0, false, {}}, clock_.now, 8, "chunk 1");
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("hedge " + ranks[1], "hedge " + ranks[2],
                                                      "stand-in " + ranks[1], "second " + ranks[2], "last"));
}

TEST_F(DirectoryTest, WhoIsSkippedIsNotOffered) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(3);
  const std::vector<std::string> ranks = Ranks(blob);
  health_.Failed(ranks[0], clock_.now);
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("hedge " + ranks[1], "hedge " + ranks[2],
                                                      "stand-in " + ranks[1], "second " + ranks[2], "last"));
}

TEST_F(DirectoryTest, WhereNoRankCanBeAskedTheNextByScoreIs) {
  Use(12);
  const Blob blob = BlobWhereOwnRankIs(kRanksAsked, kRanksAsked);
  const std::vector<std::string> ranks = Ranks(blob, kRanksAsked);
  for (size_t rank = 0; rank < kRanks; ++rank) {
    EXPECT_THAT(Texts(Settled(blob, one_)), ::testing::Not(::testing::Contains("second " + ranks[3])))
        << rank;
    health_.Failed(ranks[rank], clock_.now);
  }
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("second " + ranks[3], "last"));
  EXPECT_THAT(Texts(Settled(blob, one_, Asker::kPeer)), ElementsAre("last"))
      << "who waits for this node must not wait for what it asks of others";
  health_.Failed(ranks[3], clock_.now);
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("second " + ranks[4], "last")) << "one at a time";
  for (const size_t rank : {4, 5}) health_.Failed(ranks[rank], clock_.now);
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("last")) << "it ends there";
}

TEST_F(DirectoryTest, WhoComesAfterRanksThatCannotBeAskedLeavesItToNobody) {
  Use(12);
  const Blob blob = BlobWhereOwnRankIs(4, kRanksAsked);
  const std::vector<std::string> ranks = Ranks(blob, kRanksAsked);
  SaidToHave(ranks[0], blob);  // so it is known of one who has it, and that is not why all are asked
  for (const size_t rank : {0, 1, 2, 3}) {
    const std::vector<std::string> texts = Texts(Settled(blob, one_));
    EXPECT_THAT(texts, ::testing::Contains("second " + ranks[std::max<size_t>(rank, 2)])) << rank;
    health_.Failed(ranks[rank], clock_.now);
  }
  EXPECT_THAT(Texts(Settled(blob, one_)), ElementsAre("hedge " + ranks[5], "last"))
      << "it may have it; and the registry is asked within the budget, as by all that are none of the three";
  EXPECT_THAT(Texts(Settled(blob, one_, Asker::kPeer)), ElementsAre("holder " + ranks[5], "last"));
}

TEST_F(DirectoryTest, EachStripeHasItsOwnRanks) {
  Use(8);
  const Blob blob(SpecOf(64));
  std::set<std::string> homes;
  uint32_t chunks = 0;
  for (const SourceOffer& offer : Settled(blob, blob.geometry().All())) {
    EXPECT_EQ(offer.has.count, 1u) << "a stripe of this blob is a chunk";
    if (offer.rank == SourceRank::kHome) homes.insert(Texts({offer})[0]);
    chunks += offer.rank == SourceRank::kOrigin || offer.rank == SourceRank::kLastResort;
  }
  EXPECT_EQ(homes.size(), 7u);
  EXPECT_EQ(chunks, 64u) << "of each the registry is somewhere in the row";
}

TEST_F(DirectoryTest, AChunkThatIsLargerThanAStripeBelongsToThatOfItsFirstByte) {
  Use(8);
  BlobSpec spec = SpecOf(1);
  spec.chunk_size = 4 * kChunk;
  spec.size = 16 * uint64_t{4 * kChunk};
  const Blob blob(spec);
  HomesKnown(blob);
  const std::shared_ptr<const MemberView> view = members_->view();
  const auto homes = HomesCache().HomesOf(blob.digest(), spec.size, *view);
  for (uint32_t i = 0; i < 16; ++i) {
    const MemberIndex home = homes->of_stripe[i * 4];
    if (view->members[home].is_self) continue;
    EXPECT_EQ(Texts(Offers(blob, {ChunkIndex(i), 1}))[0], "home " + view->members[home].name) << i;
  }
}

TEST_F(DirectoryTest, WhatTheMembersDontCarryIsAskedOfTheRegistryByOwnRight) {
  Use(8);
  BlobSpec spec = SpecOf(1);
  spec.root.reset();
  EXPECT_THAT(Texts(Settled(Blob(spec), one_)), ElementsAre("origin"));
}

TEST_F(DirectoryTest, OneThatRefusesABlobTakesItFromNobodyAndTwoSayThatMembersDontCarryIt) {
  RefusingTransport refusing;
  transport_ = &refusing;
  Use(8);
  auto blob = std::make_shared<Blob>(*BlobWhereOwnRankIs(3).facts());
  const auto ask = [&](const std::string& whom) {
    for (const SourceOffer& offer : Settled(*blob, one_)) {
      if (Texts({offer}).front() != whom) continue;
      absl::Status status;
      const FetchHandle handle = offer.source->Fetch(
          {blob, one_, FetchClass::kDemand, clock_.now + 10s, Asker::kLocal, nullptr,
           std::make_shared<FetchProgress>(clock_)},
          [](ChunkIndex, Buffer, SenderId) {}, [&](absl::Status given) { status = std::move(given); });
      io_.Run();
      return status;
    }
    return absl::NotFoundError("it is not offered");
  };
  const std::vector<std::string> ranks = Ranks(*blob);
  EXPECT_TRUE(absl::IsUnauthenticated(ask("home " + ranks[0])));
  EXPECT_EQ(Texts(Offers(*blob, one_)).front(), "home " + ranks[0]) << "it may be set up in another way";
  EXPECT_TRUE(absl::IsUnauthenticated(ask("home " + ranks[0])));
  EXPECT_EQ(Texts(Offers(*blob, one_)).front(), "home " + ranks[0]) << "the same says no more";
  EXPECT_TRUE(absl::IsUnauthenticated(ask("stand-in " + ranks[1])));
  EXPECT_THAT(Texts(Offers(*blob, one_)), ElementsAre("origin"));
  clock_.now += 61s;
  EXPECT_EQ(Texts(Offers(*blob, one_)).front(), "home " + ranks[0]) << "it may have changed";
  Use(2);
  blob = std::make_shared<Blob>(*BlobWhereOwnRankIs(1).facts());
  EXPECT_TRUE(absl::IsUnauthenticated(ask("home node-1")));
  EXPECT_THAT(Texts(Offers(*blob, one_)), ElementsAre("origin")) << "there is no other";
  directory_.reset();
}

TEST_F(DirectoryTest, WhoseNameAnotherServesByIsNoRankAndAsksThatOne) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(0);
  EXPECT_EQ(Texts(Settled(blob, one_)).back(), "origin");
  const HostPort elsewhere{"127.0.0.1", 99};
  members_->Change([&](MemberTable& table, Instant now) {
    table.HeardFrom({"node-0", {elsewhere}, "", kProtocolMajor, 2}, elsewhere, now);
  });
  const std::vector<std::string> texts = Texts(Settled(blob, one_));
  EXPECT_EQ(texts.front(), "home node-0");
  EXPECT_EQ(texts.back(), "last");
}

TEST_F(DirectoryTest, UntilTheHomesAreComputedThatIsWaitedFor) {
  Use(8);
  auto blob = std::make_shared<Blob>(SpecOf(1));
  std::vector<SourceOffer> offers = Offers(*blob, one_);
  ASSERT_THAT(Texts(offers), ElementsAre("wait"));
  absl::Status status;
  bool done = false;
  const FetchHandle handle = offers[0].source->Fetch(
      {blob, one_, FetchClass::kDemand, clock_.now + 10s, Asker::kLocal, nullptr,
       std::make_shared<FetchProgress>(clock_)},
      [](ChunkIndex, Buffer, SenderId) {},
      [&](absl::Status given) {
        status = std::move(given);
        done = true;
      });
  io_.Run();
  ASSERT_TRUE(done);
  EXPECT_TRUE(absl::IsNotFound(status)) << "so that others are asked: " << status;
  EXPECT_GT(Offers(*blob, one_).size(), 1u);
}

TEST_F(DirectoryTest, WhoHasItIsAskedAtOnceWhenAReaderJoinsAFill) {
  RefusingTransport nobody;
  holders_transport_ = &nobody;
  Use(8);
  auto blob = std::make_shared<Blob>(*BlobWhereOwnRankIs(0).facts());
  (void)directory_->FillOrder(*blob, blob->geometry().All());
  std::vector<SourceOffer> offers = Offers(*blob, one_);
  std::vector<std::string> texts = Texts(offers);
  const auto at = std::find(texts.begin(), texts.end(), "wait");
  ASSERT_NE(at, texts.end());
  std::stable_sort(offers.begin(), offers.end(),
                   [](const SourceOffer& a, const SourceOffer& b) { return a.rank < b.rank; });
  bool done = false;
  FetchHandle handle = offers[static_cast<size_t>(at - texts.begin())].source->Fetch(
      {blob, one_, FetchClass::kBackfill, clock_.now + 10s, Asker::kLocal, nullptr,
       std::make_shared<FetchProgress>(clock_)},
      [](ChunkIndex, Buffer, SenderId) {}, [&](const absl::Status&) { done = true; });
  handle.Raise(FetchClass::kHint);
  io_.Run();
  EXPECT_FALSE(done);
  handle.Raise(FetchClass::kDemand);
  EXPECT_TRUE(done);
}

TEST_F(DirectoryTest, WhenMembersChangeTheHomesOfBeforeServeUntilTheNewOnesAreKnown) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(3);
  const std::vector<std::string> before = Texts(Settled(blob, one_));
  Answered("node-9");
  EXPECT_EQ(Texts(Offers(blob, one_)), before);
  io_.Run();
  const std::vector<std::string> ranks = Ranks(blob);
  EXPECT_EQ(Texts(Offers(blob, one_))[0], "home " + ranks[0]);
}

TEST_F(DirectoryTest, InTheColdStartMembersAreAskedForWhatTheyHaveAndTheRegistryWaits) {
  Use(8);
  cold_start_ = true;
  auto blob = std::make_shared<Blob>(SpecOf(1));
  std::vector<SourceOffer> offers = Offers(*blob, one_);
  EXPECT_THAT(Texts(offers), ElementsAre("holder node-1", "holder node-2", "wait"));
  bool done = false;
  const FetchHandle handle = offers.back().source->Fetch(
      {blob, one_, FetchClass::kDemand, clock_.now + 10s, Asker::kLocal, nullptr,
       std::make_shared<FetchProgress>(clock_)},
      [](ChunkIndex, Buffer, SenderId) {}, [&](absl::Status) { done = true; });
  for (int i = 0; i < 10; ++i) {
    io_.Run();
    clock_.now += 100ms;
  }
  EXPECT_FALSE(done);
  cold_start_ = false;
  io_.Run();
  EXPECT_TRUE(done);
}

TEST_F(DirectoryTest, AWaitThatNobodyWantsAnyMoreEnds) {
  Use(8);
  cold_start_ = true;
  auto blob = std::make_shared<Blob>(SpecOf(1));
  absl::Status status;
  {
    const FetchHandle handle =
        Offers(*blob, one_)
            .back()
            .source->Fetch(
                {blob, one_, FetchClass::kDemand, clock_.now + 10s, Asker::kLocal, nullptr,
                 std::make_shared<FetchProgress>(clock_)},
                [](ChunkIndex, Buffer, SenderId) {}, [&](absl::Status given) { status = std::move(given); });
    io_.Run();
  }
  clock_.now += 100ms;
  io_.Run();
  EXPECT_TRUE(absl::IsCancelled(status));
}

TEST_F(DirectoryTest, WhoIsCutOffAsksTheRegistryOnlyWithinTheBudgetWhateverItsRank) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(0);
  EXPECT_EQ(Texts(Settled(blob, one_)).back(), "origin");
  for (int i = 1; i < 8; ++i) Silent(absl::StrCat("node-", i));
  clock_.now += 2s;
  EXPECT_EQ(Texts(Offers(blob, one_)).back(), "last");
}

TEST_F(DirectoryTest, AFillAsksEveryHomeByTurnsInTheOrderOfItsStripes) {
  Use(8);
  const Blob blob(SpecOf(512));  // 128 MiB: stripes of 2 MiB
  const std::vector<ChunkSpan> order = directory_->FillOrder(blob, blob.geometry().All());
  ASSERT_EQ(order.size(), 512u);
  const std::shared_ptr<const MemberView> view = members_->view();
  const auto homes = HomesCache().HomesOf(blob.digest(), blob.geometry().size(), *view);
  std::set<uint32_t> seen;
  std::map<MemberIndex, uint32_t> last;
  for (const ChunkSpan span : order) {
    EXPECT_EQ(span.count, 1u);
    EXPECT_TRUE(seen.insert(span.first.value()).second);
    const MemberIndex home = homes->of_stripe[span.first.value() / 8];
    EXPECT_TRUE(!last.contains(home) || last[home] < span.first.value()) << "not in the order of its home";
    last[home] = span.first.value();
  }
  const auto home_at = [&](size_t position) { return homes->of_stripe[order[position].first.value() / 8]; };
  std::set<MemberIndex> first;
  for (size_t i = 2; i < 10; ++i) first.insert(home_at(i));
  EXPECT_EQ(first.size(), 8u) << "of every home one";
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(view->members[home_at(i)].is_self)
        << "its own first, and some beforehand: the registry goes on";
  EXPECT_TRUE(view->members[home_at(10)].is_self) << "one each time";
}

// Eight nodes, of which the even ones are in one zone with this one, and the others in another.
class ZonesTest : public DirectoryTest {
 protected:
  ZonesTest() {
    for (int i = 0; i < 8; ++i) zones_[absl::StrCat("node-", i)] = IsHere(i) ? "here" : "there";
    Use(8);
  }
  static bool IsHere(int node) { return node % 2 == 0; }
  static bool IsHere(const std::string& name) { return IsHere(name.back() - '0'); }
  std::vector<std::string> OfZone(const Blob& blob) {
    const std::shared_ptr<const MemberView> view = members_->view();
    const auto homes = HomesCache().HomesOf(blob.digest(), blob.geometry().size(), *view);
    std::vector<std::string> names;
    for (const MemberIndex index : homes->of_zone.at(0)) {
      if (index != kNoMember) names.push_back(view->members[index].name);
    }
    return names;
  }
  // A blob of one chunk whose home is here or there, of which this node has that rank in its zone, and is no
  // rank among all, so that only zones decide.
  Blob BlobWhere(bool home_is_here, size_t own) {
    for (int i = 0;; ++i) {
      BlobSpec spec = SpecOf(1);
      spec.digest = Sha256::Of(absl::StrCat("zoned ", i));
      const Blob blob(spec);
      const std::vector<std::string> ranks = Ranks(blob);
      if (IsHere(ranks[0]) == home_is_here && OfZone(blob).at(own) == "node-0" &&
          std::find(ranks.begin(), ranks.end(), "node-0") == ranks.end())
        return Blob(spec);
    }
  }
};

TEST_F(ZonesTest, WhoseHomeIsInAnotherZoneIsAskedOfOneOfThisZoneAndOfNoOtherBeside) {
  const Blob blob = BlobWhere(false, 3);
  const std::vector<std::string> zone = OfZone(blob), ranks = Ranks(blob);
  ASSERT_EQ(zone.size(), 4u);
  for (const std::string& name : zone) EXPECT_TRUE(IsHere(name)) << name;
  std::vector<std::string> expected = {"zone-home " + zone[0], "home " + ranks[0]};
  const std::vector<std::string> texts = Texts(Settled(blob, one_));
  ASSERT_GE(texts.size(), 4u);
  EXPECT_EQ(texts[0], expected[0]);
  EXPECT_EQ(texts[1], expected[1]);
  EXPECT_EQ(texts.back(), "last");
  for (const SourceOffer& offer : Settled(blob, one_)) {
    const std::string text = Texts({offer})[0];
    if (offer.rank == SourceRank::kHedge || offer.rank == SourceRank::kHolder) {
      EXPECT_TRUE(IsHere(text)) << text << " would send another copy across";
    }
  }
}

TEST_F(ZonesTest, WhoFetchesForItsZoneAsksTheHomeAndAsksForNoZone) {
  const Blob blob = BlobWhere(false, 0);
  EXPECT_EQ(Texts(Settled(blob, one_))[0], "home " + Ranks(blob)[0]);
  // By its zone's right no zone is asked, whatever this node knows of its zone: waits would form a cycle.
  for (const size_t own : {0, 1, 3}) {
    const Blob asked = BlobWhere(false, own);
    const std::vector<std::string> texts = Texts(Settled(asked, one_, Asker::kZone));
    EXPECT_EQ(texts[0], "home " + Ranks(asked)[0]) << own;
    for (const SourceOffer& offer : Settled(asked, one_, Asker::kZone))
      EXPECT_TRUE(MayAwait(Asker::kZone, offer.rank)) << Texts({offer})[0];
    for (const SourceOffer& offer : Settled(asked, one_, Asker::kPeer))
      EXPECT_TRUE(MayAwait(Asker::kPeer, offer.rank)) << Texts({offer})[0];
  }
}

TEST_F(ZonesTest, AHomeOfThisZoneIsAskedItself) {
  const Blob blob = BlobWhere(true, 2);
  EXPECT_EQ(Texts(Settled(blob, one_))[0], "home " + Ranks(blob)[0]);
}

TEST_F(ZonesTest, TheNextOfTheZoneFetchesInPlaceOfOneThatIsSkippedAndThisNodeInItsTurn) {
  const Blob blob = BlobWhere(false, 2);
  const std::vector<std::string> zone = OfZone(blob);
  HomesKnown(blob);
  EXPECT_EQ(Texts(Offers(blob, one_))[0], "zone-home " + zone[0]);
  health_.SentWrong(zone[0], clock_.now, "x");
  EXPECT_EQ(Texts(Offers(blob, one_))[0], "zone-home " + zone[1]);
  health_.SentWrong(zone[1], clock_.now, "x");
  EXPECT_EQ(Texts(Offers(blob, one_))[0], "home " + Ranks(blob)[0]);
}

TEST_F(ZonesTest, WithoutAZoneOrWithoutAnotherThereIsNoPolicy) {
  const Blob blob = BlobWhere(false, 3);
  zones_["node-0"] = "";
  Use(8);
  EXPECT_EQ(Texts(Settled(blob, one_))[0], "home " + Ranks(blob)[0]);
  for (auto& [name, zone] : zones_) zone = "here";
  Use(8);
  EXPECT_EQ(Texts(Settled(blob, one_))[0], "home " + Ranks(blob)[0]);
}

TEST_F(ZonesTest, AMemberThatChangesItsZoneChangesWhoIsAsked) {
  const Blob blob = BlobWhere(false, 3);
  const std::string home = OfZone(blob)[0];
  EXPECT_EQ(Texts(Settled(blob, one_))[0], "zone-home " + home);
  zones_[home] = "there";
  Answered(home);
  EXPECT_NE(Texts(Settled(blob, one_))[0], "zone-home " + home);
}

TEST_F(DirectoryTest, WhoMayAskTheRegistryAsksThoseFirstThatAreSaidToHaveIt) {
  Use(8);
  const Blob blob = BlobWhereOwnRankIs(0);
  (void)directory_->FillOrder(blob, blob.geometry().All());
  EXPECT_THAT(Texts(Offers(blob, one_)), ::testing::Contains("wait")) << "nobody was asked yet";
  const std::vector<std::string> ranks = Ranks(blob);
  std::string holder = "node-1";
  for (int i = 2; std::find(ranks.begin(), ranks.end(), holder) != ranks.end(); ++i)
    holder = absl::StrCat("node-", i);
  const HeldBlob held{*Holders::IdentityOf(blob), true};
  EXPECT_TRUE(holders_->Take(FormatAnnouncement({holder, {held}, {}})).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(holders_->Take(FormatAnnouncement({"stranger", {held}, {}}))));
  EXPECT_TRUE(absl::IsPermissionDenied(
      holders_->Take(FormatAnnouncement({holder, {held}, {}}), ProvenNames({"another"}))));
  EXPECT_TRUE(holders_->Take(FormatAnnouncement({"node-0", {held}, {}})).ok()) << "this node itself";
  AskHolders(blob);
  EXPECT_THAT(Texts(Offers(blob, one_)),
              ElementsAre("holder " + ranks[1], "holder " + ranks[2], "holder " + holder, "origin"));
  holders_->NoteLacks(held.blob, holder);
  EXPECT_THAT(Texts(Offers(blob, one_)), ::testing::SizeIs(kRanksAsked)) << "now nobody has it";
  const Blob other = BlobWhereOwnRankIs(3);
  const std::vector<std::string> fetch = Ranks(other);
  holder = "node-1";
  for (int i = 2; std::find(fetch.begin(), fetch.end(), holder) != fetch.end(); ++i)
    holder = absl::StrCat("node-", i);
  EXPECT_TRUE(holders_->Take(FormatAnnouncement({holder, {{*Holders::IdentityOf(other), true}}, {}})).ok());
  const std::vector<std::string> texts = Texts(Settled(other, one_));
  ASSERT_GE(texts.size(), 2u);
  EXPECT_EQ(texts[texts.size() - 2], "late-holder " + holder)
      << "who is no rank leaves that to those that are, until none of them gives it";
  EXPECT_THAT(Texts(Offers(other, one_, Asker::kPeer)), ::testing::Contains("holder " + holder));
}

// Which chunks a holder has is known once it lacked one and was asked.
TEST_F(DirectoryTest, AHolderThatHasSomeIsAskedForTheChunksThatItHas) {
  RefusingTransport transport;
  holders_transport_ = &transport;
  Use(16);
  BlobSpec spec = SpecOf(64 * 8);  // a stripe has eight
  const Blob blob(spec);
  const std::vector<std::string> ranks = Ranks(blob, kRanksAsked);
  std::string holder = "node-1";
  for (int i = 2; std::find(ranks.begin(), ranks.end(), holder) != ranks.end(); ++i)
    holder = absl::StrCat("node-", i);
  const HeldBlob held{*Holders::IdentityOf(blob), false, 3 * kChunk};
  EXPECT_TRUE(holders_->Take(FormatAnnouncement({holder, {held}, {}})).ok());
  HomesKnown(blob);
  const auto spans_of_holder = [&](ChunkSpan span) {
    std::vector<ChunkSpan> spans;
    for (const SourceOffer& offer : Offers(blob, span, Asker::kPeer))
      if (Texts({offer}).front() == "holder " + holder) spans.push_back(offer.has);
    return spans;
  };
  const ChunkSpan stripe{ChunkIndex(0), 8};
  EXPECT_THAT(spans_of_holder(stripe), ElementsAre(stripe)) << "nobody knows";
  ChunkSet present(blob.geometry().chunk_count());
  for (const uint32_t chunk : {1, 2, 5, 9}) present.Add(ChunkIndex(chunk));
  transport.presence = FormatPresence(present);
  holders_->NoteLacks(held.blob, holder);
  EXPECT_THAT(spans_of_holder(stripe), ElementsAre(ChunkSpan{ChunkIndex(1), 2}, ChunkSpan{ChunkIndex(5), 1}));
  EXPECT_THAT(spans_of_holder({ChunkIndex(2), 2}), ElementsAre(ChunkSpan{ChunkIndex(2), 1}));
  EXPECT_THAT(spans_of_holder({ChunkIndex(3), 2}), IsEmpty());
  clock_.now += Holders::kPresenceKept;
  EXPECT_THAT(spans_of_holder({ChunkIndex(3), 2}), ElementsAre(ChunkSpan{ChunkIndex(3), 2}));
}

TEST_F(DirectoryTest, WhoHasBecomeARankAsksSixForTenSeconds) {
  Use(10);
  const Blob joins = BlobWhereOwnRankIs(3, kRanksAsked), stays = BlobWhereOwnRankIs(1, kRanksAsked);
  const std::string leaves = Ranks(joins, kRanksAsked)[0], holder = Ranks(joins, kRanksAsked)[1];
  ASSERT_EQ(Texts(Settled(joins, one_)).back(), "last");
  (void)Settled(stays, one_);
  Gone(leaves);
  for (const Blob* blob : {&joins, &stays}) {
    SaidToHave(holder, *blob);
    HomesKnown(*blob);
  }
  ASSERT_THAT(Ranks(joins), ::testing::Contains("node-0"));
  const auto others = [&](const Blob& blob) {
    std::set<std::string> names;
    for (const std::string& text : Texts(Offers(blob, one_))) {
      if (text != "origin") names.insert(text.substr(text.find(' ') + 1));
    }
    return names.size();
  };
  EXPECT_EQ(others(joins), 5u);
  EXPECT_LE(others(stays), 3u) << "two ranks and the holder: it was one before";
  const Blob fresh = BlobWhereOwnRankIs(0, kRanks, "fresh ");
  SaidToHave(holder, fresh);
  HomesKnown(fresh);
  EXPECT_GE(others(fresh), 5u) << "nobody knows whether it was one before";
  clock_.now += 10s;
  EXPECT_LE(others(joins), 3u);
  EXPECT_LE(others(fresh), 3u);
}

// A chunk that all nodes want at once, among nodes of which each knows some of the others. One that is asked
// to fetch it asks others for what they have, then the registry. What it is let wait for it waits for. Who is
// left waiting for ever? It is of one of the last stripes: their homes are often not those of the best score,
// which have enough. Each may skip some that it knows, for a reason of its own.
class WaitsTest : public DirectoryTest {
 protected:
  enum class Rule {
    kByScoreAndOwnRight,  // as PEERS.md says
    kByScore,             // also for what it waits for itself as for a home
    kByOwnRight,          // whoever asks
  };
  struct Node {
    std::string name;
    std::string home;               // whom it waits for; empty: it gets it by own right
    std::set<std::string> present;  // whom it asks for what they have, by own right
    bool is_asked = false;          // to fetch it for others
    bool HasOwnRight() const { return home.empty() || is_asked; }
  };

  static constexpr uint32_t kStripes = 16;  // of a chunk each
  static constexpr ChunkSpan kChunkWanted{ChunkIndex(kStripes - 1), 1};

  // `skipped`: of ten that it knows.
  std::map<std::string, Node> NodesThatWant(const Blob& blob, uint32_t skipped, std::mt19937& random) {
    constexpr int kNodes = 12;
    std::map<std::string, Node> nodes;
    for (int i = 0; i < kNodes; ++i) {
      Node node{.name = absl::StrCat("node-", i), .home = {}, .present = {}};
      std::set<std::string> known = {node.name};
      for (int other = 0; other < kNodes; ++other) {
        if (random() % 10 < 6) known.insert(absl::StrCat("node-", other));
      }
      Use(known, node.name);
      for (const std::string& name : known) {
        health_.Succeeded(name);
        if (name != node.name && random() % 10 < skipped) health_.Failed(name, clock_.now);
      }
      (void)directory_->FillOrder(blob, blob.geometry().All());
      SourceRank rank = SourceRank::kLastResort;
      for (const SourceOffer& offer : Offers(blob, kChunkWanted)) {
        if (!MayWaitForOthers(offer.rank) || offer.rank >= rank) continue;
        rank = offer.rank;
        node.home = NameIn(offer);
        substituted_ += rank == SourceRank::kSecondStandIn;
      }
      for (const SourceOffer& offer : Offers(blob, kChunkWanted, Asker::kPeer)) {
        EXPECT_FALSE(MayWaitForOthers(offer.rank));
        if (const std::string name = NameIn(offer); !name.empty()) node.present.insert(name);
      }
      nodes[node.name] = node;
    }
    for (const auto& [name, node] : nodes) {
      if (!node.home.empty()) nodes[node.home].is_asked = true;
    }
    return nodes;
  }
  size_t substituted_ = 0;  // that wait for one that is last of those that may ask the registry

  std::string NameIn(const SourceOffer& offer) {
    const std::string text = Texts({offer})[0];
    const size_t space = text.find(' ');
    return space == std::string::npos ? "" : text.substr(space + 1);
  }
  // How many never get it.
  static size_t Stuck(const Blob& blob, const std::map<std::string, Node>& nodes, Rule rule) {
    const auto lets_wait = [&](const Node& server, const Node& asker) {
      const bool comes_before = OutScores(blob.digest(), kChunkWanted.first.value(), server.name, asker.name);
      return (rule == Rule::kByScore || server.HasOwnRight()) && (rule == Rule::kByOwnRight || comes_before);
    };
    std::set<std::string> got;
    const auto gets = [&](const Node& node) {
      if (!node.home.empty() && got.contains(node.home)) return true;
      return node.HasOwnRight() &&
             std::all_of(node.present.begin(), node.present.end(), [&](const auto& name) {
               return got.contains(name) || !lets_wait(nodes.at(name), node);
             });
    };
    for (bool more = true; more;) {
      more = false;
      for (const auto& [name, node] : nodes) {
        if (!got.contains(name) && gets(node)) more = got.insert(name).second;
      }
    }
    return nodes.size() - got.size();
  }
};

TEST_F(WaitsTest, NobodyWaitsForEverWhateverEachKnowsOfTheOthers) {
  std::mt19937 random(7);
  size_t stuck_by_score = 0, stuck_by_own_right = 0;
  for (int i = 0; i < 200; ++i) {
    BlobSpec spec = SpecOf(kStripes);
    spec.digest = Sha256::Of(absl::StrCat("waited for ", i));
    const Blob blob(spec);
    const uint32_t skipped = i % 2 == 0 ? 0 : 6;
    const std::map<std::string, Node> nodes = NodesThatWant(blob, skipped, random);
    ASSERT_EQ(Stuck(blob, nodes, Rule::kByScoreAndOwnRight), 0u) << i;
    stuck_by_score += Stuck(blob, nodes, Rule::kByScore);
    stuck_by_own_right += Stuck(blob, nodes, Rule::kByOwnRight);
  }
  EXPECT_GT(stuck_by_score, 0u) << "half of the rule is not enough";
  EXPECT_GT(stuck_by_own_right, 0u) << "nor is the other half";
  EXPECT_GT(substituted_, 100u);
}

// ------------------------------------------------------------------------------------------ last resort

class LastResortTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRate = 4 * kChunk;  // four chunks a second

  FetchHandle Fetch(uint32_t chunk, FetchClass fetch_class = FetchClass::kDemand, Duration patience = 30s) {
    return source_.Fetch(
        {blob_,
         {ChunkIndex(chunk), 1},
         fetch_class,
         clock_.now + patience,
         Asker::kLocal,
         nullptr,
         std::make_shared<FetchProgress>(clock_)},
        [](ChunkIndex, Buffer, SenderId) {},
        [this, chunk](absl::Status status) { ends_[chunk] = std::move(status); });
  }
  std::vector<uint32_t> Asked() const {
    std::vector<uint32_t> chunks;
    for (const auto& call : origin_.calls) chunks.push_back(call.request.chunks.first.value());
    return chunks;
  }
  void Pass(Duration time) {
    for (const Instant end = clock_.now + time; clock_.now < end; clock_.now += 10ms) io_.Run();
    io_.Run();
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor io_{clock_};
  Telemetry telemetry_;
  fakes::FakeSource origin_;
  size_t members_ = 100000;  // so many that each has only its own rate
  GatedSource source_{origin_,
                      {clock_, io_},
                      std::make_unique<LastResortGate>(
                          kRate, [this] { return members_; }, telemetry_)};
  std::shared_ptr<Blob> blob_ = std::make_shared<Blob>(SpecOf(100));
  std::map<uint32_t, absl::Status> ends_;
  std::vector<FetchHandle> handles_;
};

TEST_F(LastResortTest, ASecondsBudgetGoesAtOnceAndMoreWaitsForItsTurn) {
  for (uint32_t i = 0; i < 8; ++i) handles_.push_back(Fetch(i));
  EXPECT_THAT(Asked(), ElementsAre(0, 1, 2, 3));
  Pass(100ms);
  EXPECT_EQ(Asked().size(), 5u) << "one may take more than is left";
  Pass(500ms);
  EXPECT_EQ(Asked().size(), 7u);
  Pass(500ms);
  EXPECT_EQ(Asked().size(), 8u);
  EXPECT_EQ(telemetry_.last_resort_bytes.value(), 8 * kChunk);
}

TEST_F(LastResortTest, ReadersGoBeforeFills) {
  for (uint32_t i = 0; i < 4; ++i) handles_.push_back(Fetch(i));
  handles_.push_back(Fetch(10, FetchClass::kBackfill));
  handles_.push_back(Fetch(11));
  Pass(100ms);
  EXPECT_EQ(Asked().back(), 11u);
}

TEST_F(LastResortTest, AFillThatAReaderJoinsGoesAsAReader) {
  for (uint32_t i = 0; i < 4; ++i) handles_.push_back(Fetch(i));
  handles_.push_back(Fetch(10, FetchClass::kHint));
  handles_.push_back(Fetch(11, FetchClass::kBackfill));
  handles_.back().Raise(FetchClass::kDemand);
  Pass(100ms);
  EXPECT_EQ(Asked().back(), 11u);
}

TEST_F(LastResortTest, WhoseTurnDoesNotComeInTimeIsToldWhy) {
  for (uint32_t i = 0; i < 4; ++i) handles_.push_back(Fetch(i));
  handles_.push_back(Fetch(8));
  handles_.push_back(Fetch(9, FetchClass::kDemand, 100ms));
  Pass(200ms);
  ASSERT_TRUE(ends_.contains(9));
  EXPECT_TRUE(absl::IsDeadlineExceeded(ends_[9]));
  EXPECT_THAT(std::string(ends_[9].message()), HasSubstr("peers.lastResortRate"));
}

TEST_F(LastResortTest, NoMoreThanSixteenAreUnderWay) {
  members_ = 1;  // 512 MiB a second
  clock_.now += 1s;
  for (uint32_t i = 0; i < 20; ++i) handles_.push_back(Fetch(i));
  EXPECT_EQ(Asked().size(), 16u);
  origin_.Take().SendAll();
  EXPECT_EQ(Asked().size(), 16u) << "the seventeenth";
  EXPECT_TRUE(ends_.contains(0));
}

TEST_F(LastResortTest, WhatNobodyWantsAnyMoreTakesNoTurn) {
  for (uint32_t i = 0; i < 4; ++i) handles_.push_back(Fetch(i));
  { const FetchHandle dropped = Fetch(9); }
  EXPECT_TRUE(absl::IsCancelled(ends_[9]));
  { const FetchHandle under_way = std::move(handles_[0]); }
  EXPECT_TRUE(origin_.calls[0].control->cancelled);
  Pass(1s);
  EXPECT_THAT(Asked(), ElementsAre(0, 1, 2, 3));
}

// ------------------------------------------------------------------------------------------------- pace

class PaceTest : public ::testing::Test {
 protected:
  // A link over which so many bytes come in a second, whoever asked first; and the answer's first byte takes
  // a round trip. Returns how many bytes came in that time.
  uint64_t Run(double bytes_per_second, Duration round_trip, Duration time) {
    uint64_t came = 0;
    for (const Instant end = now_ + time; now_ < end;) {
      while (pace_.MayBegin(true, now_)) {
        pace_.Began(kFetch, now_);
        const auto on_wire =
            std::chrono::duration_cast<Duration>(std::chrono::duration<double>(kFetch / bytes_per_second));
        link_free_ = std::max(link_free_, now_ + round_trip) + on_wire;
        under_way_.push_back({now_, link_free_});
      }
      now_ = under_way_.front().ends;
      pace_.Ended(kFetch, now_ - under_way_.front().began, now_);
      under_way_.pop_front();
      came += kFetch;
    }
    return came;
  }

  struct UnderWay {
    Instant began, ends;
  };
  static constexpr uint64_t kFetch = 256 << 10;
  Pace pace_;
  std::deque<UnderWay> under_way_;
  Instant now_{1h};
  Instant link_free_{};
};

TEST_F(PaceTest, AFastAndFarLinkIsFilled) {
  Run(1e9 / 8, 36ms, 3s);
  EXPECT_GT(static_cast<double>(Run(1e9 / 8, 36ms, 2s)), 0.9 * 2 * 1e9 / 8);
}

TEST_F(PaceTest, ASlowLinkHasLittleUnderWay) {
  Run(12.5e6 / 8, 1ms, 5s);  // an eighth of 100 Mbit/s
  EXPECT_LE(pace_.window(), 3 * kFetch) << "more of it would come as late as it would otherwise";
  EXPECT_GT(static_cast<double>(Run(12.5e6 / 8, 1ms, 5s)), 0.95 * 5 * 12.5e6 / 8)
      << "and is full all the same";
}

TEST_F(PaceTest, WhoAnswersSoonerOnceDoesNotMakeAllOthersLate) {
  Run(1e9 / 8, 1ms, 20ms);
  Run(1e9 / 8, 140ms, 10s);
  EXPECT_GT(static_cast<double>(Run(1e9 / 8, 140ms, 2s)), 0.8 * 2 * 1e9 / 8)
      << "what is a little later is no queue";
}

TEST_F(PaceTest, OneThatBecomesSlowIsNotFloodedForLong) {
  Run(1e9 / 8, 1ms, 3s);
  Run(12.5e6 / 8, 1ms, 60s);  // until all has come that was asked for before
  EXPECT_LE(pace_.window(), 5 * kFetch);
  Run(1e9 / 8, 1ms, 10s);
  EXPECT_GT(pace_.window(), 8 * kFetch) << "and used when it is fast again";
}

// It and its helpers say themselves when they have too many askers.
TEST_F(PaceTest, OfAMemberThatBecomesSlowAWindowIsAskedForStill) {
  Pace pace(Pace::kWindowOfMember, Pace::kWindowOfMember);
  const auto fetch = [&](Duration took) {
    pace.Began(kFetch, now_);
    now_ += took;
    pace.Ended(kFetch, took, now_);
  };
  for (int i = 0; i < 8; ++i) fetch(10ms);
  EXPECT_GT(pace.window(), Pace::kWindowOfMember);
  for (int i = 0; i < 4; ++i) fetch(5s);
  EXPECT_EQ(pace.window(), Pace::kWindowOfMember);
}

// Many begin at the same moment, and what comes next comes without a pause.
TEST_F(PaceTest, TheFirstOfAFillWaitsAfterAPause) {
  int pauses = 0;
  Pace pace(Pace::kWindowFirst, Pace::kWindowMin, [&] { return ++pauses * 100ms; });
  const auto may_begin = [&](Duration later, bool begins_fill = true) {
    now_ += later;
    return pace.MayBegin(begins_fill, now_);
  };
  EXPECT_TRUE(may_begin(0ms, false)) << "a reader is near, or more of the blob is here";
  EXPECT_FALSE(may_begin(0ms));
  EXPECT_EQ(pace.LookAgainAt(now_), now_ + 100ms);
  EXPECT_TRUE(may_begin(50ms, false));
  EXPECT_FALSE(may_begin(49ms));
  EXPECT_TRUE(may_begin(1ms));
  EXPECT_EQ(pace.LookAgainAt(now_), Instant::max());
  for (int i = 0; i < 2; ++i) {
    pace.Began(kFetch, now_);
    now_ += 5s;
    pace.Ended(kFetch, 5s, now_);
    EXPECT_TRUE(may_begin(Pace::kPauseMin - 1ms)) << i;
  }
  pace.Began(kFetch, now_);
  pace.Cancelled(kFetch, now_);
  EXPECT_TRUE(may_begin(Pace::kPauseMin - 1ms));
  EXPECT_EQ(pauses, 1);
  EXPECT_FALSE(may_begin(1ms));
  EXPECT_FALSE(may_begin(199ms));
  EXPECT_TRUE(may_begin(1ms));
  EXPECT_EQ(pauses, 2);
}

TEST_F(PaceTest, TheMoreMembersTheLongerTheFirstWaits) {
  EXPECT_EQ(FirstWait(8, 0), Duration(0));
  EXPECT_LT(FirstWait(8, 1), 3ms) << "where few are homes it is of no use";
  EXPECT_EQ(FirstWait(1000, 0.5), FirstWait(1000, 1) / 2);
  EXPECT_GE(FirstWait(1000, 1), 200ms);
  EXPECT_LE(FirstWait(1'000'000, 1), 500ms);
}

TEST_F(LastResortTest, OnlyTheFirstOfAFillOfWhichNothingIsHereWaitsFirst) {
  GatedSource paced(origin_, {clock_, io_},
                    std::make_unique<Pace>(Pace::kWindowMax, Pace::kWindowMin, [] { return 100ms; }));
  std::vector<FetchHandle> handles;
  const auto fetch = [&](uint32_t chunk, FetchClass fetch_class) {
    handles.push_back(paced.Fetch(
        {blob_,
         {ChunkIndex(chunk), 1},
         fetch_class,
         clock_.now + 30s,
         Asker::kLocal,
         nullptr,
         std::make_shared<FetchProgress>(clock_)},
        [](ChunkIndex, Buffer, SenderId) {}, [](const absl::Status&) {}));
  };
  fetch(0, FetchClass::kHint);
  EXPECT_THAT(Asked(), IsEmpty());
  handles.clear();
  fetch(1, FetchClass::kReadahead);
  EXPECT_THAT(Asked(), ElementsAre(1));
  origin_.Take().SendAll();
  Pass(10s);
  blob_->presence().Set(ChunkIndex(7));
  fetch(2, FetchClass::kHint);
  EXPECT_THAT(Asked(), ElementsAre(2)) << "somebody stands in for a home";
}

TEST_F(PaceTest, ReadersDontWait) {
  EXPECT_TRUE(pace_.LetsThrough(FetchClass::kDemand));
  EXPECT_FALSE(pace_.LetsThrough(FetchClass::kReadahead));
}

TEST_F(LastResortTest, WhatAReaderJoinsPassesAGateThatLetsReadersThrough) {
  GatedSource paced(origin_, {clock_, io_}, std::make_unique<Pace>());
  std::vector<FetchHandle> handles;
  for (uint32_t i = 0; i < 10; ++i) {
    handles.push_back(paced.Fetch(
        {blob_,
         {ChunkIndex(i), 1},
         FetchClass::kBackfill,
         clock_.now + 30s,
         Asker::kLocal,
         nullptr,
         std::make_shared<FetchProgress>(clock_)},
        [](ChunkIndex, Buffer, SenderId) {},
        [this, i](absl::Status status) { ends_[i] = std::move(status); }));
  }
  EXPECT_THAT(Asked(), ElementsAre(0)) << "a chunk at first";
  handles[9].Raise(FetchClass::kDemand);
  EXPECT_EQ(Asked().back(), 9u);
  handles.clear();
  EXPECT_TRUE(absl::IsCancelled(ends_[7]));
}

}  // namespace
}  // namespace sluice::p2p
