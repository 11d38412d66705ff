#include "p2p/cluster/spreading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

using Verdict = Spreader::Verdict;
using Outcome = Spreader::Outcome;

class HeldClock final : public Clock {
 public:
  Instant Now() const override { return now; }
  Instant now{1h};
};

class SpreadingTest : public ::testing::Test {
 protected:
  SpreadingTest() { Restart({}); }
  void Restart(SpreadingLimits limits, const std::string& zone = "") {
    spreader_ = std::make_unique<Spreader>(
        clock_,
        [this](const std::string& name) -> std::optional<std::string> {
          const auto found = zones_.find(name);
          if (found == zones_.end()) return std::nullopt;
          return found->second;
        },
        limits, zone);
  }
  static Spreader::Request Request(const std::string& asker, FetchClass fetch_class = FetchClass::kDemand,
                                   std::vector<std::string> tried = {}, uint32_t chunk = 0) {
    return {{BlobKey(Digest()), ChunkIndex(chunk)}, asker, fetch_class, std::move(tried)};
  }
  Spreader::Answer Ask(const std::string& asker, std::vector<std::string> tried = {}, uint32_t chunk = 0) {
    return spreader_->Ask(Request(asker, FetchClass::kDemand, std::move(tried), chunk));
  }
  Spreader::Answer AskEarly(const std::string& asker, FetchClass fetch_class = FetchClass::kDemand,
                            uint32_t chunk = 0) {
    return spreader_->AskEarly(Request(asker, fetch_class, {}, chunk));
  }
  std::vector<Spreader::Answer> Came(uint32_t chunk = 0) {
    return spreader_->Came({BlobKey(Digest()), ChunkIndex(chunk)});
  }
  // It is sent the chunk, and takes it.
  void Give(const std::string& asker) {
    const Spreader::Answer answer = Ask(asker);
    ASSERT_EQ(answer.verdict, Verdict::kSend) << asker;
    spreader_->Ended(answer.id, Outcome::kTaken);
  }
  // The same, while nobody knows in which zone they are: or it would go to one of them alone.
  void GiveUnzoned(const std::vector<std::string>& askers) {
    const std::map<std::string, std::string> zones = zones_;
    for (const std::string& asker : askers) zones_[asker] = "";
    for (const std::string& asker : askers) Give(asker);
    zones_ = zones;
  }
  // Two transfers that go on, so that whoever asks is refused.
  void KeepBusy() {
    for (int i = 0; i < 2; ++i) ASSERT_EQ(Ask("stranger").verdict, Verdict::kSend);
  }

  HeldClock clock_;
  std::map<std::string, std::string> zones_ = {{"a", "1"}, {"b", "1"}, {"c", "2"}, {"d", "2"},
                                               {"e", "1"}, {"f", "2"}, {"g", ""},  {"h", ""}};
  std::unique_ptr<Spreader> spreader_;
};

TEST_F(SpreadingTest, TwoAreSentAChunkAtOnceAndTheNextIsToldOfThem) {
  const Spreader::Answer first = Ask("a"), second = Ask("b");
  EXPECT_EQ(first.verdict, Verdict::kSend);
  EXPECT_EQ(second.verdict, Verdict::kSend);
  const Spreader::Answer third = Ask("c");
  EXPECT_EQ(third.verdict, Verdict::kRefuse);
  EXPECT_THAT(third.helpers, UnorderedElementsAre("a", "b"));
  EXPECT_GE(third.retry, Spreader::kRetryMin);
  EXPECT_LE(third.retry, Spreader::kRetryMax);
  EXPECT_EQ(Ask("c", {}, 1).verdict, Verdict::kSend) << "another chunk is another matter";
  spreader_->Ended(first.id, Outcome::kTaken);
  EXPECT_EQ(Ask("d").verdict, Verdict::kSend);
}

TEST_F(SpreadingTest, AHelperIsNamedToAsManyAsItServesBeforeAllHaveBeenNamed) {
  for (const char* helper : {"a", "b", "c", "d", "e", "f"}) Give(helper);
  KeepBusy();
  zones_ = {{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}, {"e", ""}, {"f", ""}};
  const std::vector<std::vector<std::string>> named = {
      {"a", "b", "c", "d"}, {"b", "c", "d", "e"}, {"c", "d", "e", "f"}, {"d", "e", "f"}, {"e", "f"}, {"f"}};
  for (const std::vector<std::string>& names : named) {
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(Ask("stranger").helpers, names) << "the first is the one that is asked";
  }
  EXPECT_THAT(Ask("stranger").helpers, IsEmpty()) << "all send to two already";
  clock_.now += 1s;
  EXPECT_THAT(Ask("stranger").helpers, ElementsAre("a", "b", "c", "d")) << "by now they have";
}

// One is always the first to have a chunk; its link is not to carry all of them.
TEST_F(SpreadingTest, WhoWasNamedToAskersOfOtherChunksOfLateComesBehindWhoWasNot) {
  Restart({.fanout = 1});
  const auto named_for = [&](uint32_t chunk) {
    for (const char* const has : {"a", "b", "e"}) {
      const Spreader::Answer sent = spreader_->Ask(Request(has, FetchClass::kBackfill, {"g"}, chunk));
      EXPECT_EQ(sent.verdict, Verdict::kSend);
      spreader_->Ended(sent.id, Outcome::kTaken);
    }
    const std::vector<std::string> named =
        spreader_->Ask(Request("c", FetchClass::kBackfill, {}, chunk)).helpers;
    return named.empty() ? std::string() : named.front();
  };
  EXPECT_EQ(named_for(0), "a");
  EXPECT_EQ(named_for(1), "b");
  EXPECT_EQ(named_for(2), "e");
  EXPECT_EQ(named_for(3), "a") << "all had a turn";
  clock_.now += 1s;
  EXPECT_EQ(named_for(4), "a") << "of what was a while ago nothing is known";
}

// In a crowd everybody asks for something again and again, but for who has vanished.
TEST_F(SpreadingTest, FillsAreToldFirstOfThoseThatWereHeardOfLate) {
  zones_["i"] = "";
  for (const char* const has : {"a", "b", "e"}) Give(has);
  clock_.now += 1s;
  KeepBusy();
  for (int i = 0; i < 2; ++i) ASSERT_EQ(Ask("stranger", {}, 1).verdict, Verdict::kSend);
  ASSERT_EQ(Ask("b", {}, 1).verdict, Verdict::kRefuse);
  EXPECT_THAT(spreader_->Ask(Request("g", FetchClass::kBackfill)).helpers, ElementsAre("b", "a", "e"));
  EXPECT_THAT(Ask("h").helpers, ElementsAre("a", "b", "e")) << "readers come too seldom to tell";
  (void)AskEarly("e", FetchClass::kDemand, 2);
  clock_.now += 999ms;
  EXPECT_THAT(spreader_->Ask(Request("i", FetchClass::kBackfill)).helpers, ElementsAre("b", "e", "g", "h"));
}

// Each connection to another one costs a handshake there.
TEST_F(SpreadingTest, WhereConnectionsAreDearEachIsToldOfTheSameAgain) {
  for (const char* const asker : {"a", "b", "c", "d", "e", "f", "i", "j", "k"}) zones_[asker] = "";
  const auto told_of = [&](const std::string& asker, uint32_t chunk) {
    for (const char* const has : {"a", "b", "c", "d", "e", "f"}) {
      const Spreader::Answer sent = Ask(has, {}, chunk);
      EXPECT_EQ(sent.verdict, Verdict::kSend);
      spreader_->Ended(sent.id, Outcome::kTaken);
    }
    for (int i = 0; i < 2; ++i) EXPECT_EQ(Ask("stranger", {}, chunk).verdict, Verdict::kSend);
    const std::vector<std::string> helpers = Ask(asker, {}, chunk).helpers;
    return helpers.empty() ? std::string() : helpers.front();
  };
  for (const bool same : {false, true}) {
    Restart({.same_helpers = same});
    std::set<std::string> of_one, of_all;
    uint32_t chunk = 0;
    for (int i = 0; i < 6; ++i) of_one.insert(told_of("g", chunk++));
    for (const char* const asker : {"g", "h", "i", "j", "k"}) of_all.insert(told_of(asker, chunk++));
    EXPECT_THAT(of_one, SizeIs(same ? 1 : 6));
    EXPECT_GE(of_all.size(), 3) << "and others of others";
  }
}

TEST_F(SpreadingTest, FillsAreBoundedOverAllChunksButForTheFirstCopies) {
  Restart({.fills_max = 1});
  const auto fill = [&](const std::string& asker, uint32_t chunk) {
    return spreader_->Ask(Request(asker, FetchClass::kBackfill, {}, chunk));
  };
  const Spreader::Answer first = fill("a", 0);
  EXPECT_EQ(first.verdict, Verdict::kSend);
  const Spreader::Answer second = fill("a", 1);
  EXPECT_EQ(second.verdict, Verdict::kSend) << "nobody else has that one";
  spreader_->Ended(second.id, Outcome::kTaken);
  const Spreader::Answer third = fill("b", 1);
  EXPECT_EQ(third.verdict, Verdict::kRefuse);
  EXPECT_THAT(third.helpers, ElementsAre("a"));
  EXPECT_EQ(Ask("c", {}, 1).verdict, Verdict::kSend) << "a reader";
  Spreader::Request help = Request("d", FetchClass::kBackfill, {}, 2);
  help.is_help = true;
  EXPECT_EQ(spreader_->Ask(help).verdict, Verdict::kRefuse) << "whoever has it otherwise";
  spreader_->Ended(first.id, Outcome::kNotTaken);
  EXPECT_EQ(spreader_->Ask(help).verdict, Verdict::kSend);
}

TEST_F(SpreadingTest, ReadersAreLeftToHelpersWhereTheyAreMany) {
  for (int i = 0; i < 16; ++i) zones_[absl::StrCat("helper ", i)] = "";
  for (int i = 0; i < 15; ++i) Give(absl::StrCat("helper ", i));
  Give("stranger");
  Give("helper 15");
  const Spreader::Answer answer = Ask("a");
  EXPECT_EQ(answer.verdict, Verdict::kRefuse);
  EXPECT_THAT(answer.helpers, SizeIs(4));
  EXPECT_EQ(Ask("a", answer.helpers).verdict, Verdict::kSend) << "who comes back from them is sent it";
}

TEST_F(SpreadingTest, HelpersOfTheAskersZoneComeFirst) {
  for (const char* helper : {"a", "b", "c", "d", "e"}) Give(helper);
  KeepBusy();
  EXPECT_THAT(Ask("f").helpers, ElementsAre("c", "d", "a", "b"));
}

TEST_F(SpreadingTest, WhoseHelpWouldCrossZonesOnceMoreIsNotNamed) {
  Restart({}, "1");
  GiveUnzoned({"c", "d"});
  KeepBusy();
  EXPECT_THAT(Ask("a").helpers, IsEmpty()) << "it is of this zone, and those of another one";
  EXPECT_THAT(Ask("f").helpers, ElementsAre("c", "d"));
  EXPECT_THAT(Ask("g").helpers, IsEmpty()) << "of a third, as far as is known";
}

TEST_F(SpreadingTest, ToAnotherZoneItGoesOnce) {
  Restart({}, "1");
  const Spreader::Answer first = Ask("c");
  ASSERT_EQ(first.verdict, Verdict::kSend);
  EXPECT_EQ(Ask("d").verdict, Verdict::kRefuse) << "there is room, and c is receiving it";
  EXPECT_THAT(Ask("f").helpers, ElementsAre("c"));
  EXPECT_EQ(Ask("a").verdict, Verdict::kSend) << "it is of this zone";
  EXPECT_THAT(Ask("f").helpers, IsEmpty()) << "c has been named enough, and to a it would cross once more";
  spreader_->Ended(first.id, Outcome::kTaken);
  clock_.now += 1s;
  EXPECT_THAT(Ask("f").helpers, ElementsAre("d", "c")) << "d has it from c by now";
  EXPECT_EQ(Ask("g").verdict, Verdict::kSend) << "where it is nobody knows";
}

TEST_F(SpreadingTest, ToAnotherZoneItGoesAgainIfNobodyThereCanGiveIt) {
  Restart({}, "1");
  const Spreader::Answer first = Ask("c");
  ASSERT_EQ(first.verdict, Verdict::kSend);
  const Spreader::Answer second = Ask("d", {"c"});
  ASSERT_EQ(second.verdict, Verdict::kSend) << "c was of no use to it";
  spreader_->Ended(second.id, Outcome::kNotTaken);
  spreader_->Ended(first.id, Outcome::kNotTaken);
  const Spreader::Answer third = Ask("f");
  ASSERT_EQ(third.verdict, Verdict::kSend) << "it has come to nobody there";
  clock_.now += Spreader::kStuckMin;
  EXPECT_EQ(Ask("d").verdict, Verdict::kSend) << "it goes nowhere";
  spreader_->Ended(third.id, Outcome::kTaken);
  EXPECT_EQ(Ask("c").verdict, Verdict::kRefuse);
  zones_.erase("f");
  zones_.erase("d");
  EXPECT_EQ(Ask("c").verdict, Verdict::kSend) << "those that had it are members no more";
}

// It may not be able to ask those of its zone, and says nothing of that.
TEST_F(SpreadingTest, NobodyIsLeftToItsZoneForEver) {
  Restart({}, "1");
  Give("c");
  for (uint32_t i = 0; i < Spreader::kLeftToZoneMax; ++i) {
    EXPECT_EQ(Ask("d").verdict, Verdict::kRefuse);
    EXPECT_EQ(Ask("f").verdict, Verdict::kRefuse) << "each is counted for itself";
  }
  const Spreader::Answer answer = Ask("d");
  ASSERT_EQ(answer.verdict, Verdict::kSend);
  spreader_->Ended(answer.id, Outcome::kNotTaken);
  EXPECT_EQ(Ask("d").verdict, Verdict::kRefuse) << "from the beginning";
}

TEST_F(SpreadingTest, OfThoseThatWaitOneOfEachOtherZoneIsSentIt) {
  Restart({.fanout = 4}, "1");
  for (const FetchClass fetch_class : {FetchClass::kDemand, FetchClass::kBackfill}) {
    const auto chunk = static_cast<uint32_t>(fetch_class);
    std::map<uint64_t, std::string> asker_of;
    for (const char* const asker : {"c", "a", "d", "b", "f"})
      asker_of[AskEarly(asker, fetch_class, chunk).id] = asker;
    std::vector<std::string> sent;
    for (const Spreader::Answer& answer : Came(chunk)) {
      const std::string& asker = asker_of.at(answer.id);
      if (answer.verdict == Verdict::kSend) {
        sent.push_back(zones_[asker]);
      } else {
        ASSERT_EQ(zones_[asker], "2");
        EXPECT_THAT(answer.helpers, SizeIs(testing::Ge(1u))) << asker;
        for (const std::string& helper : answer.helpers) EXPECT_EQ(zones_[helper], "2") << helper;
      }
    }
    EXPECT_THAT(sent, UnorderedElementsAre("1", "1", "2"));
  }
}

// Two would cross, one of them from the helper, and the next asker of that zone be sent it, too.
TEST_F(SpreadingTest, WhatIsWholeGoesToAnotherZoneByNoHelperOfThisOne) {
  Restart({.helps_across = false}, "1");
  Give("a");
  KeepBusy();
  const Spreader::Answer answer = Ask("c");
  EXPECT_EQ(answer.verdict, Verdict::kRefuse);
  EXPECT_THAT(answer.helpers, IsEmpty());
  EXPECT_THAT(Ask("b").helpers, ElementsAre("a"));
}

// Before it is known how long transfers take it is asked often in the time of one.
TEST_F(SpreadingTest, WhoeverAsksOftenIsLeftToWhoInItsZoneReceivesIt) {
  Restart({}, "1");
  const Spreader::Answer first = Ask("c");
  ASSERT_EQ(first.verdict, Verdict::kSend);
  for (uint32_t i = 0; i < 10 * Spreader::kLeftToZoneMax; ++i) EXPECT_EQ(Ask("d").verdict, Verdict::kRefuse);
  clock_.now += Spreader::kStuckMin;
  EXPECT_EQ(Ask("d").verdict, Verdict::kSend) << "it goes nowhere";
}

TEST_F(SpreadingTest, AFillIsNotLeftToHelpersThatAreNotNamedToIt) {
  Restart({}, "1");
  GiveUnzoned({"c", "d"});
  EXPECT_EQ(spreader_->Ask(Request("f", FetchClass::kBackfill)).verdict, Verdict::kRefuse);
  EXPECT_EQ(spreader_->Ask(Request("a", FetchClass::kBackfill)).verdict, Verdict::kSend);
}

TEST_F(SpreadingTest, NobodyIsNamedToItselfNorWhoIsNoMember) {
  for (const char* helper : {"a", "b", "c"}) Give(helper);
  Give("nobody's name");
  Give("");
  KeepBusy();
  zones_.erase("b");
  EXPECT_THAT(Ask("a").helpers, ElementsAre("c"));
  EXPECT_THAT(Ask("stranger").helpers, ElementsAre("c")) << "who asks lacks it";
}

TEST_F(SpreadingTest, WhoWasToldOfHelpersIsOneAWhileLaterUnlessItComesBack) {
  Give("a");
  KeepBusy();
  EXPECT_THAT(Ask("b").helpers, ElementsAre("a"));
  EXPECT_THAT(Ask("c").helpers, ElementsAre("a"));
  EXPECT_THAT(Ask("stranger").helpers, IsEmpty()) << "nor is who was told of them a moment ago";
  clock_.now += 1s;
  EXPECT_THAT(Ask("c", {"a"}).helpers, ElementsAre("b"));
  EXPECT_THAT(Ask("stranger").helpers, UnorderedElementsAre("a", "b")) << "c has just come back";
}

TEST_F(SpreadingTest, AHelperThatWasTriedInVainIsNotNamedToThatAskerAgain) {
  for (const char* helper : {"a", "b"}) Give(helper);
  KeepBusy();
  EXPECT_THAT(Ask("c", {"a"}).helpers, ElementsAre("b"));
  EXPECT_THAT(Ask("c", {"a", "b"}).helpers, IsEmpty());
}

TEST_F(SpreadingTest, AHelperThatTwoHaveTriedInVainIsNamedToNobody) {
  for (const char* helper : {"a", "b"}) Give(helper);
  KeepBusy();
  for (int i = 0; i < 5; ++i) Ask("c", {"a"});
  EXPECT_THAT(Ask("g").helpers, ElementsAre("a")) << "one asker's word is not enough";
  Ask("d", {"a"});
  clock_.now += 1s;
  const std::vector<std::string> named = Ask("stranger").helpers;
  EXPECT_THAT(named, testing::Contains("b"));
  EXPECT_THAT(named, testing::Not(testing::Contains("a")));
}

TEST_F(SpreadingTest, AHelperThatIsStillReceivingIsNotBlamed) {
  const Spreader::Answer a = Ask("a");
  Ask("stranger");
  for (const char* asker : {"c", "d", "e"}) EXPECT_THAT(Ask(asker, {"a"}).helpers, IsEmpty());
  EXPECT_THAT(Ask("f").helpers, ElementsAre("a"));
  spreader_->Ended(a.id, Outcome::kTaken);
  Ask("stranger");
  EXPECT_THAT(Ask("g").helpers, testing::Contains("a"));
}

TEST_F(SpreadingTest, ATransferThatBrokeOffMakesNoHelperAndGivesItsPlaceBack) {
  const Spreader::Answer a = Ask("a"), b = Ask("b");
  spreader_->Ended(a.id, Outcome::kNotTaken);
  spreader_->Ended(a.id, Outcome::kNotTaken);
  EXPECT_EQ(Ask("c").verdict, Verdict::kSend);
  EXPECT_THAT(Ask("d").helpers, UnorderedElementsAre("b", "c"));
  EXPECT_EQ(spreader_->request_count(), 2u);
}

TEST_F(SpreadingTest, WhoComesBeforeTheChunkWaitsAndDemandIsServedFirst) {
  const Spreader::Answer fill1 = AskEarly("a", FetchClass::kBackfill),
                         fill2 = AskEarly("b", FetchClass::kBackfill), demand = AskEarly("c");
  for (const Spreader::Answer& answer : {fill1, fill2, demand}) EXPECT_EQ(answer.verdict, Verdict::kWait);
  const std::vector<Spreader::Answer> answers = Came();
  ASSERT_THAT(answers, SizeIs(3));
  EXPECT_EQ(answers[0].id, demand.id);
  EXPECT_EQ(answers[0].verdict, Verdict::kSend);
  const bool a_first = answers[1].id == fill1.id;
  EXPECT_EQ(answers[1].verdict, Verdict::kSend);
  EXPECT_EQ(answers[2].id, a_first ? fill2.id : fill1.id);
  EXPECT_EQ(answers[2].verdict, Verdict::kRefuse);
  EXPECT_THAT(answers[2].helpers, UnorderedElementsAre(a_first ? "a" : "b", "c"));
  EXPECT_THAT(Came(), IsEmpty());
  EXPECT_EQ(spreader_->request_count(), 2u);
}

TEST_F(SpreadingTest, WhatIsComingGoesToOneReaderAndFromEachToTheNext) {
  std::vector<std::string> askers;
  for (size_t i = 0; i < Spreader::kLineMax + 2; ++i) {
    askers.push_back(absl::StrCat("m", i));
    zones_[askers.back()] = "";
    AskEarly(askers.back());
  }
  const std::vector<Spreader::Answer> answers =
      spreader_->Came({BlobKey(Digest()), ChunkIndex(0)}, Spreader::Whole::kNotYet);
  ASSERT_THAT(answers, SizeIs(askers.size()));
  EXPECT_EQ(answers[0].verdict, Verdict::kSend);
  for (size_t i = 1; i < Spreader::kLineMax; ++i) {
    EXPECT_EQ(answers[i].verdict, Verdict::kRefuse);
    ASSERT_THAT(answers[i].helpers, testing::Not(IsEmpty())) << i;
    EXPECT_EQ(answers[i].helpers.front(), askers[i - 1]);
  }
  for (size_t i = Spreader::kLineMax; i < askers.size(); ++i)
    EXPECT_THAT(answers[i].helpers, IsEmpty()) << "each one in the line adds its delay";
  // Once it is here it is sent to two.
  EXPECT_EQ(Ask(askers.back()).verdict, Verdict::kSend);
  Spreader::Request coming = Request("x", FetchClass::kDemand, {}, 1);
  coming.is_coming = true;
  EXPECT_EQ(spreader_->Ask(coming).verdict, Verdict::kSend);
  EXPECT_EQ(spreader_->Ask(coming).verdict, Verdict::kRefuse);
  coming.is_coming = false;
  EXPECT_EQ(spreader_->Ask(coming).verdict, Verdict::kSend);
}

// Their links carry many chunks at once, and none of them is in a hurry.
TEST_F(SpreadingTest, WhatIsComingGoesToFillsAsWhatIsHere) {
  for (const char* const asker : {"a", "b", "c", "d"}) AskEarly(asker, FetchClass::kBackfill);
  const std::vector<Spreader::Answer> answers =
      spreader_->Came({BlobKey(Digest()), ChunkIndex(0)}, Spreader::Whole::kNotYet);
  ASSERT_THAT(answers, SizeIs(4));
  EXPECT_EQ(answers[0].verdict, Verdict::kSend);
  EXPECT_EQ(answers[1].verdict, Verdict::kSend);
  for (size_t i = 2; i < 4; ++i) {
    EXPECT_EQ(answers[i].verdict, Verdict::kRefuse);
    EXPECT_THAT(answers[i].helpers, SizeIs(2)) << "those that are sent it";
  }
}

TEST_F(SpreadingTest, FillsAreLeftToThoseThatHaveTheChunkOnceAHomeHasSentItTwice) {
  const auto ask = [&](const std::string& asker, std::vector<std::string> tried = {}) {
    return spreader_->Ask(Request(asker, FetchClass::kBackfill, std::move(tried)));
  };
  for (const char* const asker : {"a", "b"}) {
    const Spreader::Answer answer = ask(asker);
    ASSERT_EQ(answer.verdict, Verdict::kSend);
    spreader_->Ended(answer.id, Outcome::kTaken);
  }
  const Spreader::Answer third = ask("c");
  EXPECT_EQ(third.verdict, Verdict::kRefuse);
  EXPECT_THAT(third.helpers, UnorderedElementsAre("a", "b"));
  const Spreader::Answer back = ask("c", {"a"});
  EXPECT_EQ(back.verdict, Verdict::kSend) << "who comes back from them is sent it";
  spreader_->Ended(back.id, Outcome::kTaken);
  const Spreader::Answer reader = Ask("d");
  EXPECT_EQ(reader.verdict, Verdict::kSend) << "and so are readers";
  spreader_->Ended(reader.id, Outcome::kTaken);
  Spreader::Request help = Request("e", FetchClass::kBackfill);
  help.is_help = true;
  EXPECT_EQ(spreader_->Ask(help).verdict, Verdict::kSend) << "nor does one that helps send on";
}

TEST_F(SpreadingTest, FillsThatWaitTakeTurnsInBeingFirst) {
  std::map<uint64_t, int> first;  // by the position in which it came
  constexpr uint32_t kChunks = 400;
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    std::vector<uint64_t> ids;
    for (const char* const asker : {"a", "b", "c", "d"})
      ids.push_back(AskEarly(asker, FetchClass::kBackfill, chunk).id);
    for (const Spreader::Answer& answer : Came(chunk)) {
      if (answer.verdict == Verdict::kSend) ++first[answer.id - ids[0]];
    }
  }
  for (uint64_t i = 0; i < 4; ++i) EXPECT_GT(first[i], kChunks / 4) << i;  // of half of them, if it is fair
}

// ------------------------------------------------------------------------------------- waiting for a turn

// Fills of a crowd: of so many members that it pays to wait.
class TurnsTest : public SpreadingTest {
 protected:
  TurnsTest() {
    for (size_t i = 0; i <= Spreader::kTurnsFrom; ++i) zones_[absl::StrCat("m", i)] = "";
    Crowd({});
  }
  void Crowd(SpreadingLimits limits, size_t members = Spreader::kTurnsFrom) {
    Restart(limits);
    for (size_t i = 0; i < members; ++i) {
      const Spreader::Answer sent = Ask(absl::StrCat("m", i), {}, kOther);
      ASSERT_EQ(sent.verdict, Verdict::kSend);
      spreader_->Ended(sent.id, Outcome::kTaken);
    }
  }
  Spreader::Answer Fill(const std::string& asker, uint32_t chunk = 0, std::vector<std::string> tried = {}) {
    Spreader::Request request = Request(asker, FetchClass::kBackfill, std::move(tried), chunk);
    request.may_wait_turn = true;
    return spreader_->Ask(request);
  }
  Spreader::Answer FillByHelp(const std::string& asker, uint32_t chunk = 0) {
    Spreader::Request request = Request(asker, FetchClass::kBackfill, {}, chunk);
    request.may_wait_turn = request.is_help = true;
    return spreader_->Ask(request);
  }
  std::vector<Spreader::Answer> Turned(uint32_t chunk = 0) {
    return spreader_->Turned({BlobKey(Digest()), ChunkIndex(chunk)});
  }

  static constexpr uint32_t kOther = 1000;  // a chunk
};

TEST_F(TurnsTest, AFillWaitsAtAHomeThatCanNameNobodyUntilItCan) {
  Crowd({.fanout = 1});
  const Spreader::Answer first = Fill("a");
  ASSERT_EQ(first.verdict, Verdict::kSend);
  EXPECT_THAT(Fill("b").helpers, ElementsAre("a")) << "which sends to one";
  const Spreader::Answer third = Fill("c"), fourth = Fill("d");
  EXPECT_EQ(third.verdict, Verdict::kWaitTurn);
  EXPECT_EQ(fourth.verdict, Verdict::kWaitTurn);
  EXPECT_GE(third.retry, Spreader::kRetryMin);
  EXPECT_TRUE(spreader_->AnyWaitTurn());
  EXPECT_THAT(Turned(), IsEmpty());
  EXPECT_EQ(spreader_->LookAgain(third.id, false), std::nullopt) << "nothing has changed";
  // Who was told of a helper is one, by now.
  clock_.now += 1s;
  const std::optional<Spreader::Answer> told = spreader_->LookAgain(third.id, false);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->verdict, Verdict::kRefuse);
  EXPECT_FALSE(told->helpers.empty());
  EXPECT_EQ(spreader_->LookAgain(third.id, true), std::nullopt) << "it waits no longer";
  spreader_->Ended(first.id, Outcome::kTaken);
  const std::vector<Spreader::Answer> turned = Turned();
  ASSERT_THAT(turned, SizeIs(1));
  EXPECT_EQ(turned[0].id, fourth.id);
  EXPECT_EQ(turned[0].verdict, Verdict::kRefuse) << "there are those that have it: it is left to them";
  EXPECT_FALSE(turned[0].helpers.empty());
  EXPECT_FALSE(spreader_->AnyWaitTurn());
  EXPECT_EQ(spreader_->request_count(), 0u);
}

TEST_F(TurnsTest, WhoseTurnItIsIsSentTheChunkOnceThereIsRoom) {
  Crowd({.fanout = 1});
  const Spreader::Answer first = Fill("a");
  ASSERT_EQ(first.verdict, Verdict::kSend);
  const Spreader::Answer waits = Fill("b", 0, {"a"});
  ASSERT_EQ(waits.verdict, Verdict::kWaitTurn) << "the only one that could help was of no use";
  spreader_->Ended(first.id, Outcome::kNotTaken);
  const std::vector<Spreader::Answer> turned = Turned();
  ASSERT_THAT(turned, SizeIs(1));
  EXPECT_EQ(turned[0].id, waits.id);
  EXPECT_EQ(turned[0].verdict, Verdict::kSend);
  EXPECT_EQ(spreader_->request_count(), 1u);
  EXPECT_THAT(Turned(), IsEmpty()) << "once";
  spreader_->Ended(waits.id, Outcome::kTaken);
  EXPECT_EQ(spreader_->request_count(), 0u);
  EXPECT_THAT(Ask("c").helpers, IsEmpty()) << "there is room again";
}

TEST_F(TurnsTest, AFillThatAskedForHelpWaitsForRoomOfAnyChunk) {
  Crowd({.fills_max = 1, .help_turns_max = 2});
  const Spreader::Answer first = FillByHelp("a", 0);
  ASSERT_EQ(first.verdict, Verdict::kSend);
  const Spreader::Answer second = FillByHelp("b", 1), third = FillByHelp("c", 2);
  EXPECT_EQ(second.verdict, Verdict::kWaitTurn);
  EXPECT_EQ(third.verdict, Verdict::kWaitTurn);
  EXPECT_EQ(FillByHelp("d", 3).verdict, Verdict::kRefuse) << "two may wait";
  EXPECT_EQ(Ask("e", {}, 4).verdict, Verdict::kSend) << "a reader waits for no fill";
  spreader_->Ended(first.id, Outcome::kTaken);
  const std::vector<Spreader::Answer> turned = Turned(0);
  ASSERT_THAT(turned, SizeIs(1)) << "there is one place";
  EXPECT_EQ(turned[0].id, second.id) << "who came first";
  EXPECT_EQ(turned[0].verdict, Verdict::kSend);
  // Its time is up.
  const std::optional<Spreader::Answer> late = spreader_->LookAgain(third.id, true);
  ASSERT_TRUE(late);
  EXPECT_EQ(late->verdict, Verdict::kRefuse);
  EXPECT_GE(late->retry, Spreader::kRetryMin);
  spreader_->Ended(second.id, Outcome::kTaken);
  EXPECT_THAT(Turned(1), IsEmpty());
  EXPECT_EQ(FillByHelp("d", 3).verdict, Verdict::kSend);
}

TEST_F(TurnsTest, NoneWaitsWhereItsTurnWouldComeTooLate) {
  Crowd({.fills_max = 1});
  // Transfers take as long as one may wait.
  for (int i = 0; i < 20; ++i) {
    const Spreader::Answer sent = FillByHelp("a", 0);
    ASSERT_EQ(sent.verdict, Verdict::kSend);
    clock_.now += Spreader::kHelpTurnMax;
    spreader_->Ended(sent.id, Outcome::kTaken);
  }
  ASSERT_EQ(FillByHelp("a", 0).verdict, Verdict::kSend);
  EXPECT_EQ(FillByHelp("b", 1).verdict, Verdict::kWaitTurn);
  EXPECT_EQ(FillByHelp("c", 2).verdict, Verdict::kWaitTurn);
  EXPECT_EQ(FillByHelp("d", 3).verdict, Verdict::kRefuse);
}

TEST_F(TurnsTest, WhoGoesWhileItWaitsForItsTurnMakesRoomForAnother) {
  Crowd({.fanout = 1, .fills_max = 1, .help_turns_max = 1});
  ASSERT_EQ(FillByHelp("a", 0).verdict, Verdict::kSend);
  const Spreader::Answer goes = FillByHelp("b", 0);
  ASSERT_EQ(goes.verdict, Verdict::kWaitTurn);
  EXPECT_EQ(FillByHelp("c", 0).verdict, Verdict::kRefuse);
  spreader_->Ended(goes.id, Outcome::kNotTaken);
  EXPECT_EQ(FillByHelp("c", 0).verdict, Verdict::kWaitTurn);
  const Spreader::Answer home = Fill("d", 0, {"a"});
  ASSERT_EQ(home.verdict, Verdict::kWaitTurn);
  spreader_->Ended(home.id, Outcome::kNotTaken);
  EXPECT_EQ(spreader_->request_count(), 2u);
  EXPECT_THAT(Turned(), IsEmpty());
}

TEST_F(TurnsTest, ReadersAndWhoMayNotAndThoseOfASmallCrowdDoNotWait) {
  const auto all_refused = [&] {
    KeepBusy();
    for (const bool is_help : {false, true}) {
      Spreader::Request request = Request("a");
      request.may_wait_turn = true;
      request.is_help = is_help;
      EXPECT_EQ(spreader_->Ask(request).verdict, Verdict::kRefuse) << "a reader";
      request.fetch_class = FetchClass::kReadahead;
      EXPECT_EQ(spreader_->Ask(request).verdict, Verdict::kRefuse) << "ahead of one, who may come up with it";
      request = Request("a", FetchClass::kBackfill);
      request.is_help = is_help;
      EXPECT_EQ(spreader_->Ask(request).verdict, Verdict::kRefuse) << "it may not";
    }
  };
  all_refused();
  EXPECT_EQ(Fill("a").verdict, Verdict::kWaitTurn);
  EXPECT_EQ(FillByHelp("b").verdict, Verdict::kWaitTurn);
  Crowd({}, Spreader::kTurnsFrom - 1);
  KeepBusy();
  EXPECT_EQ(Fill("a").verdict, Verdict::kRefuse);
  EXPECT_EQ(FillByHelp("b").verdict, Verdict::kRefuse);
}

// A home whose waiting room fills wait in has room left for readers.
TEST_F(TurnsTest, TurnsAtAHomeAreBoundedWithThoseWhoWaitForWhatIsToCome) {
  Crowd({.fanout = 1, .waiting_max = 4});
  ASSERT_EQ(Fill("stranger").verdict, Verdict::kSend);
  std::vector<Spreader::Answer> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.push_back(Fill("stranger"));
    ASSERT_EQ(waiting.back().verdict, Verdict::kWaitTurn);
  }
  EXPECT_EQ(Fill("stranger").verdict, Verdict::kRefuse);
  EXPECT_EQ(AskEarly("stranger", FetchClass::kBackfill, 1).verdict, Verdict::kRefuse);
  EXPECT_EQ(AskEarly("stranger", FetchClass::kDemand, 1).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("stranger", FetchClass::kDemand, 1).verdict, Verdict::kRefuse);
  spreader_->Ended(waiting[0].id, Outcome::kNotTaken);
  ASSERT_TRUE(spreader_->LookAgain(waiting[1].id, true));
  EXPECT_EQ(AskEarly("stranger", FetchClass::kBackfill, 2).verdict, Verdict::kWait);
  EXPECT_EQ(Fill("stranger").verdict, Verdict::kRefuse) << "that one waits, too";
}

TEST_F(TurnsTest, WhoWaitedForAChunkAndCanBeToldOfNobodyWaitsForItsTurn) {
  Crowd({.fanout = 1});
  std::map<uint64_t, std::string> askers;
  for (const char* const asker : {"a", "b", "c", "d"}) {
    Spreader::Request request = Request(asker, FetchClass::kBackfill);
    request.may_wait_turn = true;
    askers[spreader_->AskEarly(request).id] = asker;
  }
  std::map<Verdict, int> verdicts;
  std::vector<uint64_t> wait;
  for (const Spreader::Answer& answer : Came()) {
    ++verdicts[answer.verdict];
    ASSERT_TRUE(askers.contains(answer.id));
    if (answer.verdict == Verdict::kWaitTurn) wait.push_back(answer.id);
    if (answer.verdict == Verdict::kRefuse) {
      EXPECT_THAT(answer.helpers, SizeIs(1));
    }
  }
  EXPECT_EQ(verdicts[Verdict::kSend], 1);
  EXPECT_EQ(verdicts[Verdict::kRefuse], 1);
  ASSERT_EQ(verdicts[Verdict::kWaitTurn], 2);
  clock_.now += 1s;
  for (const uint64_t id : wait) {
    const std::optional<Spreader::Answer> told = spreader_->LookAgain(id, false);
    ASSERT_TRUE(told);
    EXPECT_FALSE(told->helpers.empty());
  }
}

TEST_F(TurnsTest, FillsThatWaitForTheirTurnTakeTurnsInBeingFirst) {
  std::map<size_t, int> first;  // by the position in which it came
  constexpr uint32_t kChunks = 200;
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    Crowd({.fanout = 1});
    const Spreader::Answer sent = Fill("a", chunk);
    ASSERT_EQ(sent.verdict, Verdict::kSend);
    std::vector<uint64_t> ids;
    for (const char* const asker : {"b", "c", "d", "e"}) {
      ids.push_back(Fill(asker, chunk, {"a"}).id);
      ASSERT_NE(ids.back(), 0u);
    }
    spreader_->Ended(sent.id, Outcome::kNotTaken);
    for (const Spreader::Answer& answer : Turned(chunk)) {
      if (answer.verdict != Verdict::kSend) continue;
      ++first[static_cast<size_t>(std::find(ids.begin(), ids.end(), answer.id) - ids.begin())];
    }
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_GT(first[i], kChunks / 8) << i;  // of a quarter, if it is fair
}

// Who is named so often that a name may be forgotten and come again.
TEST_F(TurnsTest, MembersThatComeAndGoAreNamedByTheirNames) {
  Restart({.fanout = 1, .chunks_max = 2});
  for (uint32_t round = 0; round < 50; ++round) {
    const std::string one = absl::StrCat("one-", round), other = absl::StrCat("other-", round % 3);
    zones_ = {{one, ""}, {other, ""}};
    const Spreader::Answer sent = Ask(one, {}, round);
    ASSERT_EQ(sent.verdict, Verdict::kSend);
    EXPECT_THAT(Ask(other, {}, round).helpers, ElementsAre(one));
    spreader_->Ended(sent.id, Outcome::kTaken);
    clock_.now += 2s;
  }
}

// ------------------------------------------------------------------------------------------------ bounds

TEST_F(SpreadingTest, WhoGoesWhileItWaitsIsNotServed) {
  const Spreader::Answer a = AskEarly("a");
  spreader_->Ended(a.id, Outcome::kNotTaken);
  EXPECT_THAT(Came(), IsEmpty());
  EXPECT_EQ(spreader_->request_count(), 0u);
}

TEST_F(SpreadingTest, WhoWaitsIsBoundedPerChunkAndInAllAndAQuarterIsKeptForDemand) {
  Restart({.waiting_max = 8, .of_chunk_max = 4});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(AskEarly("a", FetchClass::kBackfill).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("a", FetchClass::kBackfill).verdict, Verdict::kRefuse);
  EXPECT_EQ(AskEarly("a").verdict, Verdict::kWait);
  const Spreader::Answer refused = AskEarly("b");
  EXPECT_EQ(refused.verdict, Verdict::kRefuse);
  EXPECT_THAT(refused.helpers, IsEmpty());
  EXPECT_GE(refused.retry, Spreader::kRetryMin);
  EXPECT_EQ(AskEarly("a", FetchClass::kBackfill, 1).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("a", FetchClass::kBackfill, 1).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("a", FetchClass::kBackfill, 1).verdict, Verdict::kRefuse) << "six in all";
  EXPECT_EQ(AskEarly("a", FetchClass::kDemand, 1).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("a", FetchClass::kDemand, 2).verdict, Verdict::kWait);
  EXPECT_EQ(AskEarly("a", FetchClass::kDemand, 3).verdict, Verdict::kRefuse) << "eight in all";
  Came();
  EXPECT_EQ(AskEarly("a", FetchClass::kDemand, 3).verdict, Verdict::kWait);
}

TEST_F(SpreadingTest, WhoIsSentAwayFromAChunkThatIsLateDoesNotComeAgainAtOnce) {
  Restart({.of_chunk_max = 1});
  EXPECT_EQ(AskEarly("a").verdict, Verdict::kWait);
  const auto retry_after = [&](Duration waited) {
    clock_.now += waited;
    const Spreader::Answer answer = AskEarly("b");
    EXPECT_EQ(answer.verdict, Verdict::kRefuse);
    return answer.retry;
  };
  EXPECT_EQ(retry_after(0ms), 100ms) << "what they take at first";
  EXPECT_EQ(retry_after(60ms), 40ms);
  EXPECT_EQ(retry_after(30ms), 25ms) << "and not 10";
  EXPECT_EQ(retry_after(10s), 25ms);
}

TEST_F(SpreadingTest, TheRetryIsWhatATransferTakesOfLateWithinItsBounds) {
  const auto refused_after = [&](Duration transfer) {
    for (int i = 0; i < 100; ++i) {
      const Spreader::Answer answer = Ask("a");
      clock_.now += transfer;
      spreader_->Ended(answer.id, Outcome::kTaken);
    }
    const Spreader::Answer b = Ask("b"), c = Ask("c");
    const Duration retry = Ask("d").retry;
    spreader_->Ended(b.id, Outcome::kNotTaken);
    spreader_->Ended(c.id, Outcome::kNotTaken);
    return retry;
  };
  EXPECT_EQ(refused_after(10us), Spreader::kRetryMin);
  EXPECT_NEAR(std::chrono::duration<double>(refused_after(50ms)).count(), 0.05, 0.001);
  EXPECT_NEAR(std::chrono::duration<double>(refused_after(1min)).count(), 2.0, 0.001);
}

TEST_F(SpreadingTest, TheTimeThatAChunkTakesToComeIsNoneOfItsTransfers) {
  for (int i = 0; i < 100; ++i) {
    const Spreader::Answer answer = Ask("a");
    clock_.now += 30s;
    spreader_->Began(answer.id);
    clock_.now += 10ms;
    spreader_->Ended(answer.id, Outcome::kTaken);
  }
  KeepBusy();
  EXPECT_NEAR(std::chrono::duration<double>(Ask("d").retry).count(), 0.01, 0.001);
  spreader_->Began(12345);
}

TEST_F(SpreadingTest, WhoTakesNothingInKeepsNobodyElseFromTheChunk) {
  const Spreader::Answer a = Ask("a"), b = Ask("b");
  clock_.now += Spreader::kStuckMin - 1ms;
  EXPECT_EQ(Ask("c").verdict, Verdict::kRefuse);
  clock_.now += 1ms;
  const Spreader::Answer c = Ask("c"), d = Ask("d");
  EXPECT_EQ(c.verdict, Verdict::kSend);
  EXPECT_EQ(d.verdict, Verdict::kSend);
  EXPECT_EQ(Ask("e").verdict, Verdict::kRefuse);
  // They end after all.
  for (const Spreader::Answer& answer : {a, b, c, d}) spreader_->Ended(answer.id, Outcome::kTaken);
  EXPECT_EQ(spreader_->request_count(), 0u);
  EXPECT_EQ(Ask("e").verdict, Verdict::kSend);
  EXPECT_EQ(Ask("f").verdict, Verdict::kSend);
  EXPECT_EQ(Ask("g").verdict, Verdict::kRefuse);
}

TEST_F(SpreadingTest, HoweverLongTransfersTakeNoReaderWaitsLongerForTheStuck) {
  for (uint32_t chunk = 10; chunk < 30; ++chunk) {
    const Spreader::Answer answer = spreader_->Ask(Request("slow", FetchClass::kBackfill, {}, chunk));
    ASSERT_EQ(answer.verdict, Verdict::kSend);
    clock_.now += 5s;
    spreader_->Ended(answer.id, Outcome::kTaken);
  }
  for (const char* name : {"a", "b"}) ASSERT_EQ(Ask(name).verdict, Verdict::kSend);
  clock_.now += Spreader::kStuckMin;
  EXPECT_EQ(spreader_->Ask(Request("c", FetchClass::kBackfill, {})).verdict, Verdict::kRefuse)
      << "as long as such transfers take it waits";
  EXPECT_EQ(Ask("d").verdict, Verdict::kSend);
}

TEST_F(SpreadingTest, FillsThatTakeNothingInKeepNoOtherFillFromItsChunk) {
  const auto ask = [this](const std::string& asker, uint32_t chunk) {
    Spreader::Request request = Request(asker, FetchClass::kBackfill, {}, chunk);
    request.is_help = true;
    return spreader_->Ask(request);
  };
  std::vector<Spreader::RequestId> stuck;
  for (uint32_t chunk = 0; chunk < SpreadingLimits().fills_max; ++chunk) {
    const Spreader::Answer answer = ask("stranger", chunk);
    ASSERT_EQ(answer.verdict, Verdict::kSend);
    stuck.push_back(answer.id);
  }
  EXPECT_EQ(ask("a", 100).verdict, Verdict::kRefuse);
  clock_.now += Spreader::kStuckMin;
  const Spreader::Answer answer = ask("a", 100);
  EXPECT_EQ(answer.verdict, Verdict::kSend);
  // They give back at last what they have no more.
  for (const Spreader::RequestId id : stuck) spreader_->Ended(id, Outcome::kNotTaken);
  spreader_->Ended(answer.id, Outcome::kTaken);
  EXPECT_EQ(spreader_->request_count(), 0u);
  for (uint32_t chunk = 0; chunk < SpreadingLimits().fills_max; ++chunk)
    EXPECT_EQ(ask("b", 200 + chunk).verdict, Verdict::kSend);
  EXPECT_EQ(ask("b", 300).verdict, Verdict::kRefuse) << "the bound is what it was";
}

TEST_F(SpreadingTest, AFillIsNotKeptFromAChunkByWhoHasItAndDoesNotGiveIt) {
  for (uint32_t chunk = 1; chunk <= SpreadingLimits().fills_max; ++chunk)
    ASSERT_EQ(spreader_->Ask(Request("stranger", FetchClass::kBackfill, {}, chunk)).verdict, Verdict::kSend);
  Give("a");
  EXPECT_EQ(spreader_->Ask(Request("b", FetchClass::kBackfill)).verdict, Verdict::kRefuse);
  EXPECT_EQ(spreader_->Ask(Request("b", FetchClass::kBackfill, {"a"})).verdict, Verdict::kSend)
      << "it has evicted it meanwhile";
}

TEST_F(SpreadingTest, WhatWasNotAskedForForAWhileIsForgottenAndNoMoreIsRememberedThanTheBound) {
  Restart({.chunks_max = 100});
  for (uint32_t chunk = 0; chunk < 1000; ++chunk) {
    spreader_->Ended(Ask("a", {}, chunk).id, Outcome::kTaken);
    EXPECT_LE(spreader_->chunk_count(), 100u);
  }
  clock_.now += 11s;
  const Spreader::Answer kept = Ask("a", {}, 5000);
  EXPECT_EQ(spreader_->chunk_count(), 1u);
  // What is in use is not forgotten, however long it takes.
  clock_.now += 1min;
  Ask("b", {}, 5001);
  EXPECT_EQ(spreader_->chunk_count(), 2u);
  spreader_->Ended(kept.id, Outcome::kTaken);
}

TEST_F(SpreadingTest, WhereAllThatMayBeRememberedIsInUseTheNextIsRefused) {
  Restart({.chunks_max = 3});
  for (uint32_t chunk = 0; chunk < 3; ++chunk) EXPECT_EQ(Ask("a", {}, chunk).verdict, Verdict::kSend);
  const Spreader::Answer refused = Ask("a", {}, 3);
  EXPECT_EQ(refused.verdict, Verdict::kRefuse);
  EXPECT_GE(refused.retry, Spreader::kRetryMin);
  EXPECT_EQ(AskEarly("a", FetchClass::kDemand, 4).verdict, Verdict::kRefuse);
  EXPECT_EQ(Ask("b", {}, 2).verdict, Verdict::kSend) << "what is remembered goes on";
}

TEST_F(SpreadingTest, ReceiversOfAChunkAreBounded) {
  Restart({.receivers_max = 3});
  for (const char* helper : {"a", "b", "c", "d", "e"}) Give(helper);
  KeepBusy();
  EXPECT_THAT(Ask("f").helpers, UnorderedElementsAre("c", "d", "e"));
  Ask("g");
  Ask("h");
  clock_.now += 1s;
  EXPECT_THAT(Ask("stranger").helpers, UnorderedElementsAre("d", "e", "h"))
      << "who has it stays, if one was sent on";
}

// ------------------------------------------------------------------------------------------- simulation

// A hundred askers of one chunk that one node has. A node's link takes one chunk in 20 ms, shared equally by
// what it sends; a request takes 1 ms. A helper passes on what it has, or is receiving, once it has it.
class CrowdSim {
 public:
  CrowdSim(uint64_t seed, size_t askers, SpreadingLimits limits) : random_(seed) {
    for (size_t i = 0; i <= askers; ++i) {
      nodes_.push_back(std::make_unique<Node>());
      nodes_.back()->spreader = std::make_unique<Spreader>(
          clock_, [](const std::string&) { return std::optional<std::string>(""); }, limits);
    }
    nodes_[0]->has = true;
    for (size_t i = 1; i <= askers; ++i) At(Below(1ms), [this, i] { AskHome(i); });
  }

  // Returns how long it took until everybody had it.
  Duration Run() {
    while (!events_.empty()) {
      const auto event = events_.begin();
      clock_.now = event->first;
      const std::function<void()> run = std::move(event->second);
      events_.erase(event);
      run();
      EXPECT_LT(clock_.now - kStart, 60s);
      if (clock_.now - kStart >= 60s) break;
    }
    return finished_ - kStart;
  }

  bool AllHaveIt() const {
    return std::all_of(nodes_.begin(), nodes_.end(), [](const auto& node) { return node->has; });
  }
  int home_sends() const { return nodes_[0]->sends; }
  int requests_max() const {
    int most = 0;
    for (const auto& node : nodes_) most = std::max(most, node->requests);
    return most;
  }

 private:
  static constexpr Instant kStart{1h};
  static constexpr double kChunkSeconds = 0.02;

  struct Transfer {
    size_t to;
    double left;  // of the chunk
    Spreader::RequestId id;
  };
  struct Node {
    std::unique_ptr<Spreader> spreader;
    bool has = false, receiving = false;
    int sends = 0, requests = 0, refusals = 0;
    std::vector<Transfer> uplink;
    Instant moved_at = kStart;
    uint64_t generation = 0;                                       // of its next event
    std::vector<std::pair<size_t, Spreader::RequestId>> promised;  // for when it has the chunk
    std::vector<std::string> tried;
  };

  void At(Duration after, std::function<void()> run) { events_.emplace(clock_.now + after, std::move(run)); }
  Duration Below(Duration bound) {
    return Duration(std::uniform_int_distribution<int64_t>(0, bound.count())(random_));
  }
  static Spreader::ChunkName Chunk() { return {BlobKey(Digest()), ChunkIndex(0)}; }

  void AskHome(size_t asker) {
    Node& node = *nodes_[asker];
    ++node.requests;
    At(1ms, [this, asker] {
      Node& self = *nodes_[asker];
      const Spreader::Answer answer =
          nodes_[0]->spreader->Ask({Chunk(), absl::StrCat(asker), FetchClass::kDemand, self.tried});
      self.tried.clear();
      if (answer.verdict == Verdict::kSend) return Begin(0, asker, answer.id);
      AskHelpers(asker, answer.helpers, answer.retry);
    });
  }
  void AskHelpers(size_t asker, std::vector<std::string> helpers, Duration retry) {
    Node& node = *nodes_[asker];
    if (helpers.empty()) {
      const Duration bound = std::min<Duration>(50ms, retry * (1 << std::min(node.refusals++, 8)));
      return At(Below(bound), [this, asker] { AskHome(asker); });
    }
    const size_t helper = std::stoul(helpers.front());
    ++node.requests;
    At(Below(3ms) + 1ms, [this, asker, helper, helpers = std::move(helpers), retry]() mutable {
      Node& asked = *nodes_[helper];
      if (asked.has || asked.receiving) {
        const Spreader::Answer answer =
            asked.spreader->Ask({Chunk(), absl::StrCat(asker), FetchClass::kDemand, {}});
        if (answer.verdict == Verdict::kSend) {
          nodes_[asker]->receiving = true;
          if (asked.has) return Begin(helper, asker, answer.id);
          return asked.promised.emplace_back(asker, answer.id), void();
        }
      }
      nodes_[asker]->tried.push_back(helpers.front());
      helpers.erase(helpers.begin());
      AskHelpers(asker, std::move(helpers), retry);
    });
  }

  void Begin(size_t from, size_t to, Spreader::RequestId id) {
    Node& sender = *nodes_[from];
    Move(sender);
    ++sender.sends;
    nodes_[to]->receiving = true;
    sender.uplink.push_back({to, 1.0, id});
    Schedule(from);
  }
  void Move(Node& sender) {
    const double seconds = std::chrono::duration<double>(clock_.now - sender.moved_at).count();
    for (Transfer& transfer : sender.uplink)
      transfer.left -= seconds / kChunkSeconds / static_cast<double>(sender.uplink.size());
    sender.moved_at = clock_.now;
  }
  void Schedule(size_t from) {
    Node& sender = *nodes_[from];
    const uint64_t generation = ++sender.generation;
    if (sender.uplink.empty()) return;
    const auto next = std::min_element(sender.uplink.begin(), sender.uplink.end(),
                                       [](const Transfer& a, const Transfer& b) { return a.left < b.left; });
    const double seconds =
        std::max(0.0, next->left) * kChunkSeconds * static_cast<double>(sender.uplink.size());
    At(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)) + 1us,
       [this, from, generation] {
         Node& node = *nodes_[from];
         if (node.generation != generation) return;
         Move(node);
         std::vector<Transfer> done;
         std::erase_if(node.uplink, [&](const Transfer& transfer) {
           if (transfer.left > 1e-6) return false;
           done.push_back(transfer);
           return true;
         });
         for (const Transfer& transfer : done) Arrive(from, transfer);
         Schedule(from);
       });
  }
  void Arrive(size_t from, const Transfer& transfer) {
    nodes_[from]->spreader->Ended(transfer.id, Outcome::kTaken);
    Node& receiver = *nodes_[transfer.to];
    EXPECT_FALSE(receiver.has) << "it was sent the chunk twice";
    receiver.has = true;
    finished_ = clock_.now;
    for (const auto& [asker, id] : std::exchange(receiver.promised, {})) Begin(transfer.to, asker, id);
  }

  HeldClock clock_;
  std::mt19937_64 random_;
  std::multimap<Instant, std::function<void()>> events_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Instant finished_ = kStart;
};

TEST(SpreadingSim, AHundredAskersGetAChunkAtAFewCopiesOfTheServers) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    CrowdSim crowd(seed, 100, {});
    const Duration spread = crowd.Run();
    EXPECT_TRUE(crowd.AllHaveIt()) << "seed " << seed;
    EXPECT_LE(crowd.home_sends(), 24) << "seed " << seed;
    EXPECT_LE(crowd.requests_max(), 40) << "seed " << seed;

    CrowdSim control(seed, 100, {.fanout = 1000});
    const Duration alone = control.Run();
    EXPECT_TRUE(control.AllHaveIt());
    EXPECT_EQ(control.home_sends(), 100);
    EXPECT_LT(spread * 4, alone) << "seed " << seed << ": " << spread / 1ms << " ms against " << alone / 1ms;
    RecordProperty(absl::StrCat("seed_", seed),
                   absl::StrCat(spread / 1ms, " ms, control ", alone / 1ms, " ms, home sent ",
                                crowd.home_sends(), ", requests at most ", crowd.requests_max()));
  }
}

}  // namespace
}  // namespace sluice::p2p
