#include "node/source_planner.h"

#include <gtest/gtest.h>

#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;

constexpr SourceId kHome{1}, kHolder{2}, kOther{3}, kOrigin{4};

ChunkSpan Span(uint32_t first, uint32_t count) {
  return {ChunkIndex(first), count};
}

class SourcePlannerTest : public ::testing::Test {
 protected:
  SourceOffer Offer(SourceId id, SourceRank rank, ChunkSpan has = Span(0, 100)) {
    return {id, rank, source_, has};
  }
  // As "source:first+count ...".
  std::string Plan(ChunkSpan span, const TriedSources& tried, const std::vector<SourceOffer>& offers) {
    std::string text;
    std::vector<Leg> legs;
    planner_->Plan(span, tried, offers, &legs);
    for (const Leg& leg : legs) {
      if (!text.empty()) text += ' ';
      text += std::to_string(static_cast<uint32_t>(leg.id)) + ':' + std::to_string(leg.chunks.first.value()) +
              '+' + std::to_string(leg.chunks.count);
    }
    return text;
  }
  void Answers(SourceId id, Duration first_byte, int times) {
    for (int i = 0; i < times; ++i)
      planner_->Note(id, {.bytes = 1, .first_byte = first_byte}, absl::OkStatus());
  }

  std::unique_ptr<SourcePlanner> planner_ = std::make_unique<SourcePlanner>();
  std::shared_ptr<ChunkSource> source_ = std::make_shared<fakes::FakeSource>();
  const Instant start_{std::chrono::hours(1)};
};

TEST_F(SourcePlannerTest, TheLowestRankIsAskedFirst) {
  EXPECT_EQ(Plan(Span(0, 4), {}, {Offer(kOrigin, SourceRank::kOrigin), Offer(kHome, SourceRank::kHome)}),
            "1:0+4");
}

TEST_F(SourcePlannerTest, ARunIsCutWhereAnotherSourceHasIt) {
  const std::vector<SourceOffer> offers = {Offer(kHolder, SourceRank::kHolder, Span(2, 2)),
                                           Offer(kHome, SourceRank::kHome, Span(5, 1)),
                                           Offer(kOrigin, SourceRank::kOrigin)};
  EXPECT_EQ(Plan(Span(0, 8), {}, offers), "4:0+2 2:2+2 4:4+1 1:5+1 4:6+2");
}

TEST_F(SourcePlannerTest, WhatNobodyHasIsLeftOut) {
  EXPECT_EQ(Plan(Span(0, 8), {}, {Offer(kHolder, SourceRank::kHolder, Span(2, 2))}), "2:2+2");
  EXPECT_EQ(Plan(Span(0, 8), {}, {}), "");
}

TEST_F(SourcePlannerTest, EachSourceIsAskedTwiceInTurnsUnlessItLacksTheChunk) {
  const std::vector<SourceOffer> offers = {Offer(kHome, SourceRank::kHome),
                                           Offer(kOther, SourceRank::kHolder),
                                           Offer(kOrigin, SourceRank::kOrigin)};
  TriedSources tried;
  tried.Lacks(kOther);
  std::string order;
  for (std::string leg = Plan(Span(0, 1), tried, offers); !leg.empty();
       leg = Plan(Span(0, 1), tried, offers)) {
    order += leg[0];
    tried.Failed(static_cast<SourceId>(leg[0] - '0'));
  }
  EXPECT_EQ(order, "1414");
}

TEST_F(SourcePlannerTest, OfAChunkInDoubtTheRegistryIsAskedFirstAndOthersAfterIt) {
  for (const SourceRank registry : {SourceRank::kOrigin, SourceRank::kLastResort}) {
    const std::vector<SourceOffer> offers = {Offer(kHome, SourceRank::kHome),
                                             Offer(kOther, SourceRank::kHolder), Offer(kOrigin, registry)};
    TriedSources tried;
    tried.Failed(kHome);
    tried.Doubt();
    EXPECT_EQ(Plan(Span(0, 1), tried, offers), "4:0+1");
    tried.Failed(kOrigin);
    EXPECT_EQ(Plan(Span(0, 1), tried, offers), "4:0+1") << "one transfer may go wrong";
    tried.Failed(kOrigin);
    EXPECT_EQ(Plan(Span(0, 1), tried, offers), "3:0+1");
    EXPECT_EQ(Plan(Span(0, 1), {}, offers), "1:0+1");
  }
}

TEST_F(SourcePlannerTest, AThirdSourceIsAskedAfterTwoThatLackTheChunk) {
  const std::vector<SourceOffer> offers = {Offer(kHome, SourceRank::kHome),
                                           Offer(kOther, SourceRank::kHolder),
                                           Offer(kOrigin, SourceRank::kOrigin)};
  TriedSources tried;
  tried.Lacks(kHome);
  tried.Lacks(kOther);
  EXPECT_EQ(Plan(Span(0, 1), tried, offers), "4:0+1");
}

TEST_F(SourcePlannerTest, OfOneRankTheQuickestIsAskedAndOneThatFailedLastNot) {
  const std::vector<SourceOffer> offers = {Offer(kHolder, SourceRank::kHolder),
                                           Offer(kOther, SourceRank::kHolder)};
  Answers(kHolder, milliseconds(20), 4);
  Answers(kOther, milliseconds(5), 4);
  EXPECT_EQ(Plan(Span(0, 1), {}, offers), "3:0+1");
  for (int i = 0; i < 3; ++i) planner_->Note(kOther, {}, absl::UnavailableError("reset"));
  EXPECT_EQ(Plan(Span(0, 1), {}, offers), "2:0+1");
  planner_->Note(kOther, {}, absl::NotFoundError("lacks it: it is well"));
  EXPECT_EQ(Plan(Span(0, 1), {}, offers), "3:0+1");
}

TEST_F(SourcePlannerTest, OneThatIsSilentAgainAndAgainIsNotAskedFirstForEver) {
  const std::vector<SourceOffer> offers = {Offer(kHolder, SourceRank::kHolder),
                                           Offer(kOther, SourceRank::kHolder)};
  Answers(kOther, milliseconds(20), 4);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Plan(Span(0, 1), {}, offers), "2:0+1") << "nothing is known of it";
    const Leg silent{kHolder, SourceRank::kHolder, source_, Span(0, 1)};
    const Instant now = start_ + SourcePlanner::kSilence;
    ASSERT_TRUE(planner_->Hedge(silent, {start_, {}, {}}, {}, offers, now).has_value());
    planner_->Note(kHolder, {}, absl::DeadlineExceededError("it is silent"));
    // The other's bytes came first.
    planner_->Note(kHolder, {}, absl::CancelledError("nobody wants it any more"));
  }
  EXPECT_EQ(Plan(Span(0, 1), {}, offers), "3:0+1");
  Answers(kHolder, milliseconds(5), 1);
  EXPECT_EQ(Plan(Span(0, 1), {}, offers), "2:0+1");
}

// As "source:first+count".
std::string Text(const std::optional<Leg>& leg) {
  if (!leg) return "nobody";
  return std::to_string(static_cast<uint32_t>(leg->id)) + ':' + std::to_string(leg->chunks.first.value()) +
         '+' + std::to_string(leg->chunks.count);
}

class HedgeTest : public SourcePlannerTest {
 protected:
  HedgeTest() { Answers(kHome, milliseconds(80), 32); }

  std::optional<Leg> Hedge(Duration after, LegProgress progress = {}) {
    progress.started = start_;
    return planner_->Hedge(late_, progress, tried_, offers_, start_ + after);
  }

  Leg late_{kHome, SourceRank::kHome, source_, Span(0, 4)};
  TriedSources tried_;
  std::vector<SourceOffer> offers_ = {Offer(kHome, SourceRank::kHome), Offer(kHolder, SourceRank::kHolder),
                                      Offer(kOrigin, SourceRank::kOrigin)};
};

TEST_F(HedgeTest, AHolderIsAskedWhenTheFirstByteTakesLongerThanItMostlyDoes) {
  EXPECT_EQ(planner_->LateAt(late_, {.started = start_, .first_byte = {}, .last_byte = {}}, start_),
            start_ + milliseconds(80));
  EXPECT_FALSE(Hedge(milliseconds(79)));
  const std::optional<Leg> leg = Hedge(milliseconds(80));
  ASSERT_TRUE(leg);
  EXPECT_EQ(leg->id, kHolder);
  EXPECT_EQ(leg->chunks, late_.chunks);
}

TEST_F(HedgeTest, NobodyIsAskedWhileBytesCome) {
  EXPECT_FALSE(Hedge(
      milliseconds(1000),
      {.started = {}, .first_byte = start_ + milliseconds(50), .last_byte = start_ + milliseconds(900)}));
}

TEST_F(HedgeTest, NoSourceIsLateBeforeFiftyMilliseconds) {
  Answers(kHome, milliseconds(1), 32);
  EXPECT_FALSE(Hedge(milliseconds(49)));
  EXPECT_TRUE(Hedge(milliseconds(50)));
}

TEST_F(HedgeTest, TheOriginIsAskedOnlyWhenTheSourceIsSilent) {
  offers_.erase(offers_.begin() + 1);
  EXPECT_FALSE(Hedge(milliseconds(1499)));
  const std::optional<Leg> leg = Hedge(milliseconds(1500));
  ASSERT_TRUE(leg);
  EXPECT_EQ(leg->id, kOrigin);
  EXPECT_TRUE(Hedge(
      milliseconds(3000),
      {.started = {}, .first_byte = start_ + milliseconds(50), .last_byte = start_ + milliseconds(1500)}));
}

TEST_F(HedgeTest, OneThatGivesSignsOfLifeIsNotSilentButIsNotWaitedForForEver) {
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kOther, SourceRank::kSecondStandIn),
             Offer(kOrigin, SourceRank::kLastResort)};
  LegProgress waiting{.started = start_, .first_byte = {}, .last_byte = {}};
  waiting.last_sign = start_ + milliseconds(4900);
  EXPECT_FALSE(Hedge(milliseconds(4900), waiting));
  EXPECT_EQ(planner_->LateAt(late_, waiting, start_ + milliseconds(4900)),
            start_ + SourcePlanner::kFirstByteBudget);
  EXPECT_FALSE(Hedge(milliseconds(5000), waiting)) << "those that are asked at the very last are not asked";
  offers_.push_back(Offer(kHolder, SourceRank::kStandIn));
  EXPECT_EQ(Text(Hedge(milliseconds(5000), waiting)), "2:0+4");
  waiting.patience = true;
  EXPECT_FALSE(Hedge(milliseconds(5000), waiting)) << "the registry itself has asked for patience";
  waiting.patience = false;
  waiting.first_byte = waiting.last_byte = start_ + milliseconds(4900);
  EXPECT_FALSE(Hedge(milliseconds(5000), waiting)) << "bytes come";
  waiting.last_sign = start_ + milliseconds(9800);
  EXPECT_EQ(planner_->LateAt(late_, waiting, start_ + milliseconds(9850)), start_ + milliseconds(9900));
  EXPECT_FALSE(Hedge(milliseconds(9899), waiting));
  EXPECT_EQ(Text(Hedge(milliseconds(9900), waiting)), "2:0+4")
      << "some chunks have come, and the others don't";
}

TEST_F(HedgeTest, OneThatGivesOnlySignsOfLifeIsTakenOverOnceByTheNextThatFetches) {
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kOther, SourceRank::kStandIn),
             Offer(kOrigin, SourceRank::kOrigin)};
  LegProgress waiting{.started = start_, .first_byte = {}, .last_byte = {}};
  waiting.last_sign = start_ + milliseconds(4900);
  EXPECT_EQ(Text(Hedge(milliseconds(5000), waiting)), "3:0+4");
  tried_.Failed(kOther);
  EXPECT_EQ(Text(Hedge(milliseconds(5000), waiting)), "nobody") << "and not by the one after it";
  offers_.push_back(Offer(kHolder, SourceRank::kHolder));
  EXPECT_EQ(Text(Hedge(milliseconds(5000), waiting)), "2:0+4") << "who has it costs the registry nothing";
  EXPECT_EQ(Text(Hedge(milliseconds(6400), waiting)), "2:0+4") << "it is silent: whoever there is";
}

TEST_F(HedgeTest, WhatNoReaderWaitsForIsTakenOverLaterAndFromWhenItsSourceFirstAnswered) {
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kOther, SourceRank::kStandIn)};
  const Duration patience = SourcePlanner::kFillPatience * SourcePlanner::kFirstByteBudget;
  LegProgress waiting{.started = start_, .first_byte = {}, .last_byte = {}};
  waiting.fetch_class = FetchClass::kBackfill;
  EXPECT_FALSE(planner_->IsStalled(waiting, start_ + milliseconds(100000))) << "it was not asked yet";
  waiting.first_sign = start_ + milliseconds(3000);
  waiting.last_sign = start_ + milliseconds(2900) + patience;
  EXPECT_EQ(planner_->LateAt(late_, waiting, start_ + milliseconds(2999) + patience),
            waiting.first_sign + patience);
  EXPECT_FALSE(planner_->IsStalled(waiting, start_ + milliseconds(2999) + patience));
  EXPECT_TRUE(planner_->IsStalled(waiting, start_ + milliseconds(3000) + patience));
  EXPECT_EQ(Text(Hedge(milliseconds(3000) + patience, waiting)), "3:0+4");
  waiting.last_byte = start_ + milliseconds(4000);
  EXPECT_FALSE(planner_->IsStalled(waiting, start_ + milliseconds(3000) + patience)) << "bytes came";
  waiting.fetch_class = FetchClass::kDemand;
  EXPECT_TRUE(planner_->IsStalled(waiting, start_ + milliseconds(9000))) << "somebody reads it now";
}

TEST_F(HedgeTest, OneThatStandsInForAHomeThatFailedIsTakenOverByTheNext) {
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kOther, SourceRank::kStandIn),
             Offer(kHolder, SourceRank::kSecondStandIn)};
  tried_.Failed(kHome);
  late_ = {kOther, SourceRank::kStandIn, source_, Span(0, 4)};
  LegProgress waiting{.started = start_, .first_byte = {}, .last_byte = {}};
  waiting.last_sign = start_ + milliseconds(4900);
  EXPECT_EQ(Text(Hedge(milliseconds(5000), waiting)), "2:0+4");
}

TEST_F(HedgeTest, HowLongAFirstByteMayTakeIsASetting) {
  planner_ = std::make_unique<SourcePlanner>(milliseconds(700));
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kOther, SourceRank::kStandIn)};
  LegProgress waiting{.started = start_, .first_byte = {}, .last_byte = {}};
  waiting.last_sign = start_ + milliseconds(600);
  EXPECT_EQ(planner_->LateAt(late_, waiting, start_), start_ + milliseconds(700));
  EXPECT_FALSE(Hedge(milliseconds(699), waiting));
  EXPECT_EQ(Text(Hedge(milliseconds(700), waiting)), "3:0+4");
}

TEST_F(HedgeTest, InPlaceOfOneThatIsSilentAStandInIsAskedAndNotOnlyForWhatItHas) {
  offers_ = {Offer(kHome, SourceRank::kHome), Offer(kHolder, SourceRank::kHedge),
             Offer(kOther, SourceRank::kStandIn)};
  EXPECT_EQ(Text(Hedge(milliseconds(80))), "2:0+4");
  EXPECT_EQ(Text(Hedge(milliseconds(1500))), "3:0+4");
  offers_.pop_back();
  EXPECT_EQ(Text(Hedge(milliseconds(1500))), "2:0+4") << "where there is none";
}

TEST_F(HedgeTest, WhoLacksTheChunkIsNotAsked) {
  tried_.Lacks(kHolder);
  EXPECT_FALSE(Hedge(milliseconds(500)));
}

TEST_F(HedgeTest, WhoHasOnlyAPartIsAskedForThat) {
  offers_[1].has = Span(0, 3);
  EXPECT_EQ(Text(Hedge(milliseconds(500))), "2:0+3");
  offers_[1].has = Span(1, 9);
  EXPECT_EQ(Text(Hedge(milliseconds(500))), "2:1+3") << "nobody has the first";
  offers_[1].has = Span(4, 9);
  EXPECT_EQ(Text(Hedge(milliseconds(500))), "nobody");
}

TEST_F(HedgeTest, WhoHasTheLongestPartIsAskedAndWhoWasNotAskedYetBeforeHim) {
  offers_[1].has = Span(0, 1);
  offers_.push_back(Offer(kOther, SourceRank::kHolder, Span(0, 2)));
  EXPECT_EQ(Text(Hedge(milliseconds(500))), "3:0+2");
  tried_.Failed(kOther);
  EXPECT_EQ(Text(Hedge(milliseconds(500))), "2:0+1");
  EXPECT_EQ(Text(Hedge(milliseconds(1500))), "4:0+4") << "a takeover";
}

TEST_F(HedgeTest, WhoWasNotAskedYetTakesThePlaceOfOneThatIsSilent) {
  offers_.push_back(Offer(kOther, SourceRank::kHolder, Span(2, 1)));
  const auto replace = [&] { return Text(planner_->Replace(late_, kHolder, tried_, offers_)); };
  EXPECT_EQ(replace(), "4:0+4");
  tried_.Failed(kOrigin);
  EXPECT_EQ(replace(), "3:2+1");
  tried_.Lacks(kOther);
  EXPECT_EQ(replace(), "nobody");
}

TEST_F(HedgeTest, HedgesHaveABudgetAndTakeoversHaveNot) {
  int hedges = 0;
  while (hedges < 100 && Hedge(milliseconds(100))) ++hedges;
  EXPECT_EQ(hedges, SourcePlanner::kHedgesSaved);
  EXPECT_TRUE(Hedge(milliseconds(1500)));
  for (int i = 0; i < 40; ++i) Plan(Span(0, 1), {}, offers_);
  for (hedges = 0; hedges < 100 && Hedge(milliseconds(100));) ++hedges;
  EXPECT_EQ(hedges, 2) << "5 % of 40";
}

TEST_F(HedgeTest, LooksAgainWhenItWouldBeSilent) {
  const LegProgress quiet{.started = start_, .first_byte = {}, .last_byte = {}};
  EXPECT_EQ(planner_->LateAt(late_, quiet, start_ + milliseconds(100)), start_ + milliseconds(1500));
  const LegProgress flows{
      .started = start_, .first_byte = start_ + milliseconds(20), .last_byte = start_ + milliseconds(400)};
  EXPECT_EQ(planner_->LateAt(late_, flows, start_ + milliseconds(400)), start_ + milliseconds(1900));
  EXPECT_EQ(planner_->LateAt(late_, flows, start_ + milliseconds(5000)), start_ + milliseconds(5000));
  const LegProgress early{
      .started = start_, .first_byte = start_ + milliseconds(20), .last_byte = start_ + milliseconds(30)};
  EXPECT_EQ(planner_->LateAt(late_, early, start_ + milliseconds(40)), start_ + milliseconds(1530))
      << "its first byte has come";
}

TEST_F(HedgeTest, AQuietTimeSavesNoMoreHedgesThanItsBound) {
  for (int i = 0; i < 10000; ++i) Plan(Span(0, 1), {}, offers_);
  int hedges = 0;
  while (hedges < 100 && Hedge(milliseconds(100))) ++hedges;
  EXPECT_EQ(hedges, SourcePlanner::kHedgesSaved);
}

TEST_F(SourcePlannerTest, ATripIsWorthTheChunksThatComeInItsTime) {
  const auto leg = [&](SourceId id, Duration first_byte, Duration rest, uint32_t chunks) {
    planner_->Note(id, {.bytes = 1, .first_byte = first_byte, .rest = rest, .chunks = chunks},
                   absl::OkStatus());
  };
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 0u) << "nothing is known";
  for (uint64_t i = 0; i + 1 < SourcePlanner::kTripsSeen; ++i)
    leg(kOrigin, milliseconds(400), milliseconds(8), 1);
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 0u) << "the first ones waited for a connection";
  for (int i = 0; i < 20; ++i) leg(kOrigin, milliseconds(40), milliseconds(8), 1);
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 5u);
  for (int i = 0; i < 20; ++i) leg(kOrigin, milliseconds(40), milliseconds(80), 4);
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 2u) << "as it is of late";
  planner_->Note(kOrigin, {}, absl::UnavailableError("reset"));
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 2u) << "what did not come says nothing";
  for (int i = 0; i < 100; ++i)
    planner_->Note(kOrigin, {.bytes = 1, .rest = milliseconds(80), .chunks = 4, .goes_on = true},
                   absl::OkStatus());
  EXPECT_EQ(planner_->ChunksPerTrip(kOrigin), 2u) << "nor does what was on its way already";
  leg(kHolder, milliseconds(40), Duration(), 1);
  EXPECT_EQ(planner_->ChunksPerTrip(kHolder), 0u) << "it came at once";
  for (int i = 0; i < 20; ++i)
    leg(kHome, i == 7 ? milliseconds(1) : milliseconds(30), std::chrono::microseconds(100), 1);
  EXPECT_EQ(planner_->ChunksPerTrip(kHome), 0u) << "the trip is short, however busy it is mostly";
}

TEST_F(SourcePlannerTest, NoMoreSourcesAreRememberedThanTheBound) {
  const auto is_remembered = [&](uint32_t id) {
    const Leg leg{SourceId{id}, SourceRank::kHolder, source_, Span(0, 1)};
    return planner_->LateAt(leg, {.started = start_, .first_byte = {}, .last_byte = {}}, start_) ==
           start_ + milliseconds(100);
  };
  const uint32_t all = SourcePlanner::kSourcesMax + 100;
  for (uint32_t id = 1; id <= all; ++id) Answers(SourceId{id}, milliseconds(100), 1);
  EXPECT_TRUE(is_remembered(all)) << "the newest";
  size_t remembered = 0;
  for (uint32_t id = 1; id <= all; ++id) remembered += is_remembered(id);
  EXPECT_EQ(remembered, SourcePlanner::kSourcesMax);
}

}  // namespace
}  // namespace sluice
