// Members that failed: who finds out whether they answer again, and how many questions that takes.
#include "p2p/cluster/member_probes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "tests/unit/node/fakes.h"
#include "tests/unit/p2p/fake_transport.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Members that answer when the test says so, and its timers.
class ProbedTransport final : public FakeTransport {
 public:
  using FakeTransport::FakeTransport;
  void Ask(const Member& member, const Question& question, OnAnswer on_answer) override {
    EXPECT_TRUE(IsFill(question.fetch_class)) << "readers come first";
    FakeTransport::Ask(member, question, std::move(on_answer));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, on_answer] : asked) names.push_back(name);
    return names;
  }
  void Answer(const absl::Status& status) {
    if (!status.ok()) return FakeTransport::Answer(status);
    FakeTransport::Answer("{}\n");
  }
};

class MemberProbesTest : public ::testing::Test {
 protected:
  MemberProbesTest() {
    Members::Options options;
    options.self = {"127.0.0.1", 1};
    options.row = RowOf("self", 1);
    options.now = [this] { return clock_.now; };
    members_ = std::make_unique<Members>(std::move(options));  // not started: it has nothing to resolve
    for (int i = 0; i < 40; ++i) {
      members_->Change([&](MemberTable& table, Instant now) {
        const MemberRow row = RowOf(absl::StrCat("node-", i), 100 + i);
        table.HeardFrom(row, row.addresses.front(), now);
      });
    }
    health_.ProbeBy(
        std::make_shared<MemberProbes>(MemberProbes::Parts{clock_, *members_, health_, transport_}));
  }
  static MemberRow RowOf(const std::string& name, int port) {
    return {name, {{"127.0.0.1", static_cast<uint16_t>(port)}}, "", kProtocolMajor, 1};
  }
  bool IsUsable(const std::string& name) const { return health_.Usable(name, clock_.now); }
  void Pass(Duration time) { transport_.PassTo(clock_.now + time); }

  fakes::FakeClock clock_;
  ProbedTransport transport_{clock_};
  MemberHealth health_;
  std::unique_ptr<Members> members_;
};

const absl::Status kSilent = absl::UnavailableError("no byte came for 1500 ms");

TEST_F(MemberProbesTest, WhoFailedIsAskedOnceItsTimeIsOverAndByNobodyElseBefore) {
  health_.Failed("node-3", clock_.now);
  Pass(MemberHealth::kSkipFirst - 1ns);
  EXPECT_THAT(transport_.names(), IsEmpty());
  Pass(1ns);
  EXPECT_THAT(transport_.names(), ElementsAre("node-3"));
  EXPECT_FALSE(IsUsable("node-3"));
  Pass(1s);
  EXPECT_FALSE(IsUsable("node-3")) << "no reader is to find out";
  EXPECT_EQ(health_.RecordOf("node-3", clock_.now).skipped_for, MemberHealth::kProbeTakes);
  EXPECT_THAT(transport_.names(), SizeIs(1));
  transport_.Answer(absl::OkStatus());
  EXPECT_TRUE(IsUsable("node-3"));
}

TEST_F(MemberProbesTest, OneThatIsDeadStillCostsAQuestionAtATimeAndEachLater) {
  health_.Failed("node-3", clock_.now);
  Duration skip = MemberHealth::kSkipFirst;
  for (int i = 0; i < 10; ++i) {
    Pass(skip);
    ASSERT_THAT(transport_.names(), ElementsAre("node-3")) << i;
    // What was under way fails with it.
    health_.Failed("node-3", clock_.now + 1s);
    transport_.PassTo(clock_.now + 1500ms);
    ASSERT_THAT(transport_.names(), SizeIs(1)) << i;
    transport_.Answer(kSilent);
    EXPECT_FALSE(IsUsable("node-3"));
    skip = health_.RecordOf("node-3", clock_.now).skipped_for;
    EXPECT_GT(skip, Duration(0));
    EXPECT_LE(skip, MemberHealth::kSkipMax);
  }
  EXPECT_GT(skip, MemberHealth::kSkipMax / 2);
}

TEST_F(MemberProbesTest, AQuestionThatTakesLongIsNotPutAgainMeanwhile) {
  Pass(health_.Failed("node-3", clock_.now));
  // A request that began before fails only now.
  const Duration skip = health_.Failed("node-3", clock_.now);
  Pass(skip);
  EXPECT_THAT(transport_.names(), SizeIs(1));
  transport_.Answer(kSilent);
  Pass(health_.RecordOf("node-3", clock_.now).skipped_for);
  EXPECT_THAT(transport_.names(), SizeIs(1)) << "but it is later";
}

TEST_F(MemberProbesTest, AMemberThatIsThereAndOfNoUseIsSkippedForEverLonger) {
  Duration last{};
  for (int i = 0; i < 4; ++i) {
    const Duration skip = health_.Failed("node-3", clock_.now, "status 500");
    EXPECT_GT(skip, last);
    Pass(last = skip);
    transport_.Answer(absl::OkStatus());
    EXPECT_TRUE(IsUsable("node-3"));
  }
}

TEST_F(MemberProbesTest, WhateverItAnswersItIsThere) {
  for (const absl::Status& status :
       {absl::NotFoundError("404"), absl::ResourceExhaustedError("503"), absl::UnauthenticatedError("403")}) {
    Pass(health_.Failed("node-3", clock_.now));
    transport_.Answer(status);
    EXPECT_TRUE(IsUsable("node-3")) << status;
  }
}

TEST_F(MemberProbesTest, WhoHasAnsweredAnotherQuestionIsNotProbed) {
  health_.Failed("node-3", clock_.now);
  health_.Succeeded("node-3");
  Pass(MemberHealth::kSkipFirst);
  EXPECT_THAT(transport_.names(), IsEmpty());
  EXPECT_TRUE(IsUsable("node-3"));
}

TEST_F(MemberProbesTest, AFewAreAskedAtOnceAndTheOthersAfterThem) {
  for (int i = 0; i < 40; ++i) health_.Failed(absl::StrCat("node-", i), clock_.now);
  Pass(MemberHealth::kSkipFirst);
  EXPECT_THAT(transport_.names(), SizeIs(MemberProbes::kAtOnceMax));
  transport_.Answer(absl::OkStatus());
  EXPECT_THAT(transport_.names(), SizeIs(MemberProbes::kAtOnceMax));
  for (int i = 1; i < 40; ++i) transport_.Answer(absl::OkStatus());
  EXPECT_THAT(transport_.names(), IsEmpty());
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(IsUsable(absl::StrCat("node-", i))) << i;
}

TEST_F(MemberProbesTest, AQuestionThatWasNotSentInTimeIsPutAgainAndIsNoFailure) {
  Pass(health_.Failed("node-3", clock_.now));
  transport_.Answer(absl::DeadlineExceededError("timed out before its turn came"));
  EXPECT_EQ(health_.RecordOf("node-3", clock_.now).failures, 1u);
  EXPECT_FALSE(IsUsable("node-3"));
  Pass(MemberProbes::kAgain);
  EXPECT_THAT(transport_.names(), ElementsAre("node-3"));
}

TEST_F(MemberProbesTest, WhoIsNoMemberIsNotAskedAndNotHeldBack) {
  Pass(health_.Failed("gone", clock_.now));
  EXPECT_THAT(transport_.names(), IsEmpty());
  EXPECT_TRUE(health_.Usable("gone", clock_.now));
}

TEST_F(MemberProbesTest, WithoutAnAnswerWhoWantsSomethingFindsOutInTheEnd) {
  Pass(health_.Failed("node-3", clock_.now));
  transport_.Answer(absl::CancelledError("stopped"));
  Pass(MemberHealth::kUnprobedMax - 1ns);
  EXPECT_FALSE(IsUsable("node-3"));
  Pass(1ns);
  EXPECT_TRUE(IsUsable("node-3"));
}

}  // namespace
}  // namespace sluice::p2p
