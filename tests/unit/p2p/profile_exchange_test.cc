// What the ranks of an image are asked about its starts: who is waited for, and for how long.
#include "p2p/cluster/profile_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/node/fakes.h"
#include "tests/unit/p2p/fake_transport.h"

namespace sluice::p2p {
namespace {

using ::testing::EndsWith;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ProfileExchangeTest : public ::testing::Test {
 protected:
  ProfileExchangeTest() { KnowMembers(8); }

  void KnowMembers(int count) {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf(0);
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));  // not started: it has nothing to resolve
    for (int i = 1; i < count; ++i) {
      members_->Change([&](MemberTable& table, Instant now) {
        table.HeardFrom(RowOf(i), RowOf(i).addresses.front(), now);
      });
    }
    exchange_ =
        std::make_unique<ProfileExchange>(ProfileExchange::Parts{clock_, *members_, health_, transport_});
  }
  static MemberRow RowOf(int number) {
    return {absl::StrCat("node-", number),
            {{"127.0.0.1", static_cast<uint16_t>(1 + number)}},
            "",
            kProtocolMajor,
            1};
  }
  std::string ProfileOf(uint32_t runs) const {
    KeptProfile kept;
    for (uint32_t i = 0; i < runs; ++i)
      kept.Merge({manifest_,
                  absl::StrCat("recorder-", i),
                  1,
                  ImageAccess::kPublic,
                  {1, {{0, {ChunkIndex(3), 2}, 0}}, {}}});
    return FormatKept(kept);
  }
  // The number of starts of what was found, 0 where nothing was; nothing: it is not over yet.
  using Found = std::shared_ptr<std::optional<uint32_t>>;
  Found Fetch() {
    auto found = std::make_shared<std::optional<uint32_t>>();
    exchange_->Fetch(manifest_, [found](std::optional<KeptProfile> kept) {
      EXPECT_FALSE(found->has_value()) << "twice";
      *found = kept ? kept->profile.runs : 0;
    });
    return found;
  }

  const Digest manifest_ = Sha256::Of("manifest");
  const absl::Status none_ = absl::NotFoundError("it is not here");
  const absl::Status silent_ = absl::UnavailableError("no byte came");
  fakes::FakeClock clock_;
  MemberHealth health_;
  FakeTransport transport_{clock_};
  std::unique_ptr<Members> members_;
  std::unique_ptr<ProfileExchange> exchange_;
};

TEST_F(ProfileExchangeTest, WhereAllRanksAnswerTheOneOfMostStartsCounts) {
  const Found found = Fetch();
  ASSERT_THAT(transport_.asked, SizeIs(ProfileExchange::kRanksAsked));
  for (const PeerTransport::Question& question : transport_.questions) {
    EXPECT_THAT(question.path_and_query, EndsWith(manifest_.ToString()));
    EXPECT_EQ(question.timeout, ProfileExchange::kTimeout);
  }
  transport_.Answer(ProfileOf(1));
  transport_.Answer(ProfileOf(3));
  EXPECT_FALSE(found->has_value());
  transport_.Answer(ProfileOf(2));
  EXPECT_EQ(*found, 3u);
  transport_.Pass(ProfileExchange::kTimeout);
}

TEST_F(ProfileExchangeTest, OneThatIsSilentDoesNotHoldUpWhatAnotherHas) {
  const Found found = Fetch();
  transport_.Answer(ProfileOf(2));
  transport_.Answer(none_);
  transport_.Pass(ProfileExchange::kOthersTimeout - std::chrono::nanoseconds(1));
  EXPECT_FALSE(found->has_value());
  transport_.Pass(std::chrono::nanoseconds(1));
  EXPECT_EQ(*found, 2u);
  transport_.Answer(silent_);  // comes too late, and a second time nobody is told
  transport_.Pass(ProfileExchange::kTimeout);
}

TEST_F(ProfileExchangeTest, WhatComesAfterOthersHadNothingIsTakenAtOnce) {
  const Found found = Fetch();
  transport_.Answer(none_);
  transport_.Pass(ProfileExchange::kOthersTimeout);
  EXPECT_FALSE(found->has_value()) << "one that is slow may have it";
  transport_.Answer(ProfileOf(1));
  EXPECT_EQ(*found, 1u);
}

TEST_F(ProfileExchangeTest, WhereNobodyHasItASilentOneIsWaitedForALittleLonger) {
  const Found found = Fetch();
  transport_.Answer(none_);
  transport_.Answer(none_);
  transport_.Pass(ProfileExchange::kOthersTimeoutWithout - std::chrono::nanoseconds(1));
  EXPECT_FALSE(found->has_value());
  transport_.Pass(std::chrono::nanoseconds(1));
  EXPECT_EQ(*found, 0u);
  transport_.Answer(ProfileOf(1));  // too late
}

TEST_F(ProfileExchangeTest, OneThatFailsAtOnceSaysNothingOfHowSoonOthersAnswer) {
  const Found found = Fetch();
  transport_.Answer(absl::UnavailableError("connection refused"));
  transport_.Answer(absl::UnavailableError("connection refused"));
  transport_.Pass(ProfileExchange::kOthersTimeoutWithout);
  EXPECT_FALSE(found->has_value());
  transport_.Answer(ProfileOf(1));
  EXPECT_EQ(*found, 1u);
}

TEST_F(ProfileExchangeTest, WhatIsOfAnotherImageOrMakesNoSenseIsNone) {
  const Found found = Fetch();
  KeptProfile other;
  other.Merge({Sha256::Of("other"), "a", 1, ImageAccess::kPublic, {1, {{0, {ChunkIndex(3), 2}, 0}}, {}}});
  transport_.Answer(FormatKept(other));
  transport_.Answer("{\"version\":");
  transport_.Answer(none_);
  EXPECT_EQ(*found, 0u);
}

TEST_F(ProfileExchangeTest, WhoIsAloneWaitsForNobody) {
  KnowMembers(1);
  const Found found = Fetch();
  EXPECT_THAT(transport_.asked, IsEmpty());
  EXPECT_EQ(*found, 0u);
}

}  // namespace
}  // namespace sluice::p2p
