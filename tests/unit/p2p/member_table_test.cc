#include "p2p/cluster/member_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/cluster/member_rounds.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using Merge = MemberTable::Merge;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Duration kTtl = 300s;

HostPort At(int number) {
  return {absl::StrCat("10.0.", number / 256, ".", number % 256), 7301};
}

MemberRow RowOf(const std::string& name, std::vector<HostPort> addresses, uint64_t start = 1) {
  return {name, std::move(addresses), "", kProtocolMajor, start};
}

class MemberTableTest : public ::testing::Test {
 protected:
  MemberTable table_{RowOf("self", {At(0)}, 10), kTtl};
  Instant now_{1000s};

  Merge From(const std::string& name, int at, uint64_t start = 1) {
    return table_.HeardFrom(RowOf(name, {At(at)}, start), At(at), now_);
  }
  Merge Hear(const std::string& name, int at, Duration age, uint64_t start = 1) {
    return table_.Hear({RowOf(name, {At(at)}, start), age}, now_);
  }
  void Dns(const std::set<HostPort>& addresses) { table_.SetAddresses({}, addresses, addresses, now_); }
  void DnsFails(const std::set<HostPort>& before) { table_.SetAddresses({}, before, {}, now_); }
  void Pass(Duration time) {
    now_ += time;
    table_.Expire(now_);
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& [name, entry] : table_.others()) names.push_back(name);
    return names;
  }
  Duration AgeOf(const std::string& name) { return now_ - table_.others().at(name).heard; }
  HostPort AddressOf(const std::string& name) { return table_.others().at(name).row.addresses.front(); }
};

TEST_F(MemberTableTest, WhoNobodyHeardOfForTheTtlIsDropped) {
  EXPECT_EQ(From("a", 1), Merge::kNew);
  EXPECT_EQ(Hear("b", 2, 100s), Merge::kNew);
  Pass(200s - 1ns);
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  Pass(1ns);
  EXPECT_THAT(Names(), ElementsAre("a"));
  Pass(100s);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(MemberTableTest, HearsayMakesNobodyYoungerThanTheTellerHadIt) {
  Hear("a", 1, 100s);
  EXPECT_EQ(Hear("a", 1, 50s), Merge::kNothingNew);
  EXPECT_EQ(AgeOf("a"), 50s);
  Hear("a", 1, 200s);
  EXPECT_EQ(AgeOf("a"), 50s);
  table_.HearAge({"a", 1, 30s}, now_);
  EXPECT_EQ(AgeOf("a"), 30s);
  table_.HearAge({"a", 2, 0s}, now_);
  table_.HearAge({"a", 1, -5s}, now_);
  table_.HearAge({"b", 1, 0s}, now_);
  EXPECT_EQ(AgeOf("a"), 30s) << "of another start, from the future, or of nobody";
}

// Two nodes that tell each other of a dead one must not keep it alive.
TEST_F(MemberTableTest, TheDeadDoNotLiveOnByBeingPassedAround) {
  MemberTable other(RowOf("other", {At(9)}), kTtl);
  From("dead", 1);
  for (int i = 0; i < 100; ++i) {
    for (auto& told : table_.RowsBeside(RowHashes{}, now_)) other.Hear(told, now_);
    for (auto& told : other.RowsBeside(RowHashes{}, now_)) table_.Hear(told, now_);
    for (auto& age : other.AgesOf(~RowBucketSet{0}, now_)) table_.HearAge(age, now_);
    now_ += 10s;
    table_.Expire(now_);
    other.Expire(now_);
  }
  EXPECT_FALSE(table_.others().contains("dead"));
  EXPECT_FALSE(other.others().contains("dead"));
}

TEST_F(MemberTableTest, TooOldMalformedAndOfAnotherProtocolIsRefused) {
  EXPECT_EQ(Hear("a", 1, kTtl), Merge::kRefused);
  EXPECT_EQ(Hear("a", 1, -1ns), Merge::kRefused);
  EXPECT_EQ(table_.Hear({RowOf("", {At(1)}), 0s}, now_), Merge::kRefused);
  EXPECT_EQ(table_.Hear({RowOf("a b", {At(1)}), 0s}, now_), Merge::kRefused);
  EXPECT_EQ(table_.Hear({RowOf("a", {}), 0s}, now_), Merge::kRefused);
  EXPECT_EQ(table_.Hear({RowOf("a", {{"name", 1}}), 0s}, now_), Merge::kRefused);
  EXPECT_EQ(table_.Hear({RowOf("a", {At(2), At(1)}), 0s}, now_), Merge::kRefused);
  MemberRow next = RowOf("next", {At(3)});
  next.protocol = kProtocolMajor + 1;
  EXPECT_EQ(table_.Hear({next, 0s}, now_), Merge::kRefused);
  EXPECT_EQ(table_.HeardFrom(next, At(3), now_), Merge::kRefused);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(MemberTableTest, WhileDnsNamesItsAddressAMemberStaysYoung) {
  From("a", 1);
  From("b", 2);
  for (int i = 0; i < 50; ++i) {
    Dns({At(1)});
    Pass(10s);
  }
  EXPECT_THAT(Names(), ElementsAre("a"));
}

TEST_F(MemberTableTest, WhoIsSilentAndGoneFromDnsIsDroppedAtOnceAndStaysOut) {
  Dns({At(1), At(2), At(3)});
  From("a", 1);
  From("b", 2);
  Pass(20s);
  table_.NoteSilence("a", now_);
  Dns({At(1), At(2)});
  EXPECT_THAT(Names(), ElementsAre("a", "b")) << "DNS still names it";
  DnsFails({At(1), At(2)});
  Dns({At(2)});
  EXPECT_THAT(Names(), ElementsAre("b"));
  EXPECT_EQ(Hear("a", 1, 20s), Merge::kRefused) << "somebody's old table";
  EXPECT_EQ(Hear("a", 1, 0s, 2), Merge::kNew) << "it started again";
  table_.NoteSilence("b", now_);
  DnsFails({At(2)});
  EXPECT_THAT(Names(), ElementsAre("a", "b")) << "DNS does not answer";
}

TEST_F(MemberTableTest, WhoAnswersStaysThoughDnsDoesNotNameIt) {
  From("a", 1);
  Dns({At(2)});
  EXPECT_THAT(Names(), ElementsAre("a"));
  table_.NoteSilence("a", now_);
  From("a", 1);
  Dns({At(2)});
  EXPECT_THAT(Names(), ElementsAre("a")) << "it was heard again";
  table_.SetAddresses({At(1)}, {At(2)}, {At(2)}, now_);
  table_.NoteSilence("a", now_);
  table_.SetAddresses({At(1)}, {At(2)}, {At(2)}, now_);
  EXPECT_THAT(Names(), ElementsAre("a")) << "it is on the static list";
}

TEST_F(MemberTableTest, OfTwoWithOneNameTheLargerStartNumberServes) {
  EXPECT_EQ(From("a", 1, 5), Merge::kNew);
  EXPECT_EQ(From("a", 2, 3), Merge::kTwin);
  EXPECT_EQ(AddressOf("a"), At(1));
  EXPECT_EQ(table_.twins().at("a").row.addresses.front(), At(2));
  EXPECT_EQ(From("a", 3, 7), Merge::kNew);
  EXPECT_EQ(AddressOf("a"), At(3));
  EXPECT_EQ(From("a", 1, 5), Merge::kTwin) << "the other lives too";
  EXPECT_EQ(Hear("a", 1, 0s, 5), Merge::kNothingNew);
  Pass(kTtl);
  EXPECT_THAT(table_.twins(), IsEmpty());
}

TEST_F(MemberTableTest, WhoComesBackWithAnOlderClockIsBelievedWhereTheOtherIsGone) {
  From("a", 1, 5);
  EXPECT_EQ(From("a", 1, 3), Merge::kNew) << "at one address only one lives";
  EXPECT_EQ(table_.others().at("a").row.start, 3u);
  table_.NoteSilence("a", now_);
  EXPECT_EQ(From("a", 2, 2), Merge::kNew) << "the other is silent";
  EXPECT_EQ(AddressOf("a"), At(2));
}

TEST_F(MemberTableTest, AddressesOfOneNodeAreOneMember) {
  Dns({At(1), At(2), At(3)});
  EXPECT_EQ(table_.Unnamed().size(), 3u);
  From("a", 1);
  EXPECT_EQ(table_.HeardFrom(RowOf("a", {}), At(2), now_), Merge::kNew);
  EXPECT_THAT(Names(), ElementsAre("a"));
  EXPECT_THAT(table_.others().at("a").row.addresses, ElementsAre(At(1), At(2)));
  EXPECT_THAT(table_.Unnamed(), ElementsAre(At(3)));
}

TEST_F(MemberTableTest, AnAddressThatIsUsedAgainIsTheLaterOnes) {
  From("old", 1, 1);
  EXPECT_EQ(From("new", 1, 2), Merge::kNew);
  EXPECT_THAT(Names(), ElementsAre("new"));
  EXPECT_EQ(Hear("old", 1, 0s, 1), Merge::kRefused) << "hearsay takes the address from nobody";
  EXPECT_EQ(Hear("older", 1, 0s, 1), Merge::kRefused) << "nor does it for who was never known here";
  EXPECT_THAT(Names(), ElementsAre("new"));
  EXPECT_EQ(Hear("newer", 1, 10s, 3), Merge::kRefused) << "who had it answers there";
  EXPECT_EQ(From("newer", 1, 3), Merge::kNew);
  EXPECT_THAT(Names(), ElementsAre("newer"));
  table_.NoteSilence("newer", now_);
  EXPECT_EQ(Hear("newest", 1, 10s, 4), Merge::kNew);
  EXPECT_THAT(Names(), ElementsAre("newest"));
}

// Whatever start number and addresses a liar gives a member, who answers stays where it answers.
TEST_F(MemberTableTest, HearsayChangesNothingOfWhoAnswersButSaysWhomToAsk) {
  From("a", 1, 5);
  EXPECT_EQ(Hear("a", 66, 0s, UINT64_MAX), Merge::kNothingNew);
  EXPECT_EQ(Hear("liar", 1, 0s, UINT64_MAX), Merge::kRefused) << "it takes no address from it";
  EXPECT_EQ(table_.Hear({RowOf("a", {At(1), At(67)}, 5), 0s}, now_), Merge::kNothingNew);
  EXPECT_THAT(Names(), ElementsAre("a"));
  EXPECT_THAT(table_.others().at("a").row, RowOf("a", {At(1)}, 5));
  EXPECT_THAT(table_.Rumoured(), ElementsAre(At(1), At(66), At(67)));
  table_.NoteSilence(At(66), now_);
  table_.NoteSilence(At(67), now_);
  EXPECT_EQ(From("a", 1, 5), Merge::kNothingNew);
  EXPECT_THAT(table_.Rumoured(), IsEmpty()) << "each is asked once";
  EXPECT_THAT(table_.twins(), IsEmpty());
  Hear("a", 66, 0s, UINT64_MAX);
  Pass(kTtl);
  EXPECT_THAT(table_.Rumoured(), IsEmpty());
}

TEST_F(MemberTableTest, WhoStartedAgainElsewhereIsBelievedWhenItAnswersThere) {
  From("a", 1, 5);
  EXPECT_EQ(Hear("a", 2, 0s, 6), Merge::kNothingNew);
  EXPECT_EQ(Hear("a", 1, 0s, 6), Merge::kNothingNew) << "and so who did where it was";
  EXPECT_THAT(table_.Rumoured(), ElementsAre(At(1), At(2)));
  EXPECT_EQ(From("a", 2, 6), Merge::kNew);
  EXPECT_EQ(AddressOf("a"), At(2));
  EXPECT_THAT(table_.Rumoured(), ElementsAre(At(1)));
  table_.NoteSilence("a", now_);
  EXPECT_EQ(Hear("a", 3, 0s, 7), Merge::kNew) << "nobody answers there any more";
  From("a", 3, 7);
  Pass(kTtl - 1ns);
  table_.HearAge({"a", 7, 1s}, now_);
  EXPECT_EQ(Hear("a", 4, 0s, 8), Merge::kNothingNew);
  Pass(1ns);
  EXPECT_EQ(Hear("a", 4, 0s, 8), Merge::kNew) << "it answered long ago";
}

// A liar's number must not keep the member out for good.
TEST_F(MemberTableTest, WhoOutlivesALargerStartNumberIsBelievedAgain) {
  Hear("a", 1, 10s, 5);
  EXPECT_EQ(Hear("a", 66, 0s, UINT64_MAX), Merge::kNew) << "nobody knows better yet";
  EXPECT_EQ(Hear("a", 1, 0s, 5), Merge::kNothingNew);
  table_.NoteSilence("a", now_);
  EXPECT_EQ(Hear("a", 1, 0s, 5), Merge::kNothingNew) << "that was before";
  Pass(5s);
  EXPECT_EQ(Hear("a", 1, 5s, 5), Merge::kNothingNew);
  EXPECT_EQ(Hear("a", 1, 4s, 5), Merge::kNew) << "somebody heard it after the other fell silent";
  EXPECT_EQ(AddressOf("a"), At(1));
}

TEST_F(MemberTableTest, RumoursAreBounded) {
  From("a", 1, 5);
  for (size_t i = 0; i < 2 * MemberTable::kRumoursMax; ++i) Hear("a", 100 + static_cast<int>(i), 0s, 6);
  EXPECT_EQ(table_.Rumoured().size(), MemberTable::kRumoursMax);
}

TEST_F(MemberTableTest, ThisNodeKnowsItselfAndIsToldNothingAboutItself) {
  Dns({At(0), At(1)});
  EXPECT_THAT(table_.Unnamed(), ElementsAre(At(1)));
  EXPECT_EQ(table_.HeardFrom(table_.self(), At(1), now_), Merge::kSelf);
  EXPECT_TRUE(table_.IsSelf(At(1)));
  EXPECT_THAT(table_.Unnamed(), IsEmpty());
  EXPECT_EQ(Hear("self", 5, 0s, 3), Merge::kSelf) << "from before it started";
  EXPECT_EQ(Hear("self", 5, 0s, 30), Merge::kTwin);
  EXPECT_EQ(From("self", 5, 3), Merge::kTwin);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(MemberTableTest, RowsAreBounded) {
  for (size_t i = 0; i < MemberTable::kRowsMax; ++i) Hear(absl::StrCat("m", i), static_cast<int>(i) + 1, 0s);
  EXPECT_EQ(Hear("one-more", 60000, 0s), Merge::kRefused);
  EXPECT_EQ(Hear("m5", 6, 0s, 2), Merge::kNew) << "who is known may change";
  EXPECT_EQ(table_.others().size(), MemberTable::kRowsMax);
}

// Or many of a thousand that start together would each think itself home of everything.
TEST_F(MemberTableTest, AddressesWithoutANameCountAsThoseThatAreNotReached) {
  std::set<HostPort> all;
  for (int i = 1; i < 100; ++i) all.insert(At(i));
  Dns(all);
  for (int i = 1; i < 49; ++i) Hear(absl::StrCat("m", i), i, 0s);
  EXPECT_TRUE(table_.IsCutOff(now_)) << "49 of 100, and this node";
  Hear("m49", 49, 0s);
  EXPECT_FALSE(table_.IsCutOff(now_)) << "to have heard of them is enough";
}

TEST_F(MemberTableTest, WhoAnswersTakesNoAddressFromAnotherThatAnswersButWhereItIs) {
  From("a", 1);
  From("b", 2);
  EXPECT_EQ(table_.HeardFrom(RowOf("liar", {At(1), At(2), At(3), At(4)}), At(3), now_), Merge::kNew);
  EXPECT_EQ(AddressOf("a"), At(1));
  EXPECT_EQ(AddressOf("b"), At(2));
  EXPECT_THAT(table_.others().at("liar").row.addresses, ElementsAre(At(3), At(4)));
  EXPECT_THAT(table_.Rumoured(), ElementsAre(At(1), At(2))) << "who lives there is asked";
  EXPECT_EQ(table_.HeardFrom(RowOf("c", {At(1)}), At(1), now_), Merge::kNew) << "there it is now";
  EXPECT_THAT(Names(), ElementsAre("b", "c", "liar"));
}

TEST_F(MemberTableTest, WhoStartedLaterServesByTheNameAsLongAsItIsHeardOf) {
  EXPECT_EQ(table_.ServingTwin(now_), nullptr);
  From("self", 5, 9);
  EXPECT_EQ(table_.ServingTwin(now_), nullptr) << "it started before";
  From("self", 5, 11);
  ASSERT_NE(table_.ServingTwin(now_), nullptr);
  EXPECT_THAT(table_.ServingTwin(now_)->row.addresses, ElementsAre(At(5)));
  Pass(kTtl);
  EXPECT_EQ(table_.ServingTwin(now_), nullptr);
}

TEST_F(MemberTableTest, WhoReachesFewerThanHalfKnowsIt) {
  Dns({At(1), At(2), At(3), At(4)});
  EXPECT_TRUE(table_.IsCutOff(now_)) << "nobody is known but by an address";
  From("a", 1);
  EXPECT_TRUE(table_.IsCutOff(now_)) << "two of five";
  From("b", 2);
  EXPECT_FALSE(table_.IsCutOff(now_)) << "three of five";
  table_.NoteSilence(At(3), now_);
  table_.NoteSilence(At(4), now_);
  EXPECT_FALSE(table_.IsCutOff(now_)) << "half is enough";
  table_.NoteSilence("a", now_);
  EXPECT_TRUE(table_.IsCutOff(now_));
  From("a", 1);
  EXPECT_FALSE(table_.IsCutOff(now_));
}

// Or whoever speaks to a node could make it dial what listens on its own host alone.
TEST_F(MemberTableTest, OnLoopbackIsNobodyButWhoWasConfiguredThere) {
  const HostPort inside{"127.0.0.1", 80}, mapped{CanonicalHost("::ffff:127.0.0.1"), 80}, any{"0.0.0.0", 80},
      inside6{"::1", 80};
  for (const HostPort& address : {inside, mapped, any, inside6}) {
    EXPECT_EQ(table_.Hear({RowOf("x", {address}), 0s}, now_), Merge::kRefused) << address.ToString();
    EXPECT_EQ(table_.Hear({RowOf("a", {At(1), address}), 0s}, now_), Merge::kNew) << address.ToString();
    EXPECT_THAT(table_.others().at("a").row.addresses, ElementsAre(At(1)));
    EXPECT_EQ(table_.HeardFrom(RowOf("b", {At(2), address}), At(2), now_), Merge::kNew) << address.ToString();
    EXPECT_THAT(table_.others().at("b").row.addresses, ElementsAre(At(2)));
    for (const char* name : {"a", "b"}) table_.NoteSilence(name, now_);
    Dns({At(900)});
    ASSERT_THAT(Names(), IsEmpty());
    now_ += 1s;  // who was dropped comes back only by who heard of it later
  }
  table_.SetAddresses({inside}, {}, {}, now_);
  EXPECT_EQ(table_.Hear({RowOf("x", {inside}), 0s}, now_), Merge::kNew) << "it stands in the configuration";
  MemberTable local(RowOf("self", {{"127.0.0.1", 7301}}), kTtl);
  EXPECT_EQ(local.Hear({RowOf("x", {inside}), 0s}, now_), Merge::kNew) << "all are on one host";
  MemberTable both(RowOf("self", {At(0), {"127.0.0.1", 7301}}), kTtl);
  EXPECT_EQ(both.Hear({RowOf("x", {inside}), 0s}, now_), Merge::kRefused);
  MemberTable met(RowOf("self", {}), kTtl);
  EXPECT_EQ(met.Hear({RowOf("x", {inside}), 0s}, now_), Merge::kRefused);
  met.NoteSelf({"127.0.0.9", 7301});
  EXPECT_EQ(met.Hear({RowOf("x", {inside}), 0s}, now_), Merge::kNew);
}

TEST_F(MemberTableTest, ANameFitsInAList) {
  for (const char* name : {"a,b", "a\"b", "a\\b", "a b", "a\tb",
                           "a\x7f"
                           "b",
                           "\xc3\xa4", ""}) {
    EXPECT_FALSE(RowOf(name, {At(1)}).Validate().ok()) << name;
    EXPECT_EQ(From(name, 1), Merge::kRefused) << name;
    EXPECT_EQ(Hear(name, 1, 0s), Merge::kRefused) << name;
  }
  EXPECT_EQ(From("node-1.example_[::1]:7301;x='y'", 1), Merge::kNew);
}

// Rows are aged by the time since they were heard, and numbered by the clock of who starts.
TEST_F(MemberTableTest, NoClockKeepsAMemberInOrOut) {
  constexpr uint64_t kYear = 365ull * 24 * 3600 * 1000;
  const uint64_t now_ms = 50 * kYear;
  EXPECT_EQ(From("ahead", 1, now_ms + kYear), Merge::kNew);
  EXPECT_EQ(From("behind", 2, now_ms - kYear), Merge::kNew);
  EXPECT_EQ(From("at-zero", 3, 0), Merge::kNew) << "it has no clock yet";
  EXPECT_EQ(From("ahead", 1, now_ms), Merge::kNew) << "its clock was set right, and it started again";
  EXPECT_EQ(table_.others().at("ahead").row.start, now_ms);
  Hear("ahead", 1, 0s, now_ms + kYear);  // who has not heard of that yet
  EXPECT_EQ(table_.others().at("ahead").row.start, now_ms);
  table_.NoteSilence("behind", now_);
  EXPECT_EQ(From("behind", 9, now_ms - 2 * kYear), Merge::kNew) << "elsewhere, with an older clock still";
  EXPECT_EQ(AddressOf("behind"), At(9));
  Pass(kTtl);
  EXPECT_THAT(Names(), IsEmpty()) << "whatever their clocks said";
}

TEST_F(MemberTableTest, OnlyWhatHashesOtherwiseIsTold) {
  MemberTable other(RowOf("other", {At(900)}), kTtl);
  other.HeardFrom(table_.self(), At(0), now_);
  EXPECT_EQ(table_.HeardFrom(other.self(), At(900), now_), Merge::kNew);
  for (int i = 1; i <= 200; ++i) {
    From(absl::StrCat("m", i), i);
    other.Hear({RowOf(absl::StrCat("m", i), {At(i)}), 0s}, now_);
  }
  EXPECT_EQ(table_.Hashes(), other.Hashes());
  EXPECT_THAT(table_.RowsBeside(other.Hashes(), now_), IsEmpty());
  From("m7", 7, 2);
  const auto rows = table_.RowsBeside(other.Hashes(), now_);
  EXPECT_LT(rows.size(), 20u);
  for (const auto& told : rows) other.Hear(told, now_);
  EXPECT_EQ(table_.Hashes(), other.Hashes());
}

TEST_F(MemberTableTest, AgesAreAskedForWhereTheyAreOld) {
  From("a", 1);
  Pass(100s);
  EXPECT_EQ(table_.OldBuckets(now_), 0u);
  Pass(1s);
  const RowBucketSet old = table_.OldBuckets(now_);
  EXPECT_EQ(old, RowBucketSet{1} << RowBucketOf("a"));
  EXPECT_THAT(table_.AgesOf(old, now_), IsEmpty()) << "this node knows no better";
  From("a", 1);
  Pass(7s);
  ASSERT_EQ(table_.AgesOf(old, now_).size(), 1u);
  EXPECT_EQ(table_.AgesOf(old, now_)[0].age, 7s);
  EXPECT_THAT(table_.AgesOf(~old, now_), IsEmpty());
}

// -------------------------------------------------------------------------------------------------- JSON

TEST(MemberCodecTest, WhatIsWrittenIsRead) {
  MembersAnswer answer;
  answer.self = RowOf("self", {At(0), {"fd00::1", 7301}}, 1'790'000'000'000);
  std::sort(answer.self.addresses.begin(), answer.self.addresses.end());
  answer.self.zone = "z";
  answer.rows = {{RowOf("a", {At(1)}), 1500ms}, {RowOf("b", {At(2)}), 0s}};
  answer.ages = {{"c", 3, 10s}};
  const absl::StatusOr<MembersAnswer> read = DecodeMembers(EncodeMembers(answer));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->self, answer.self);
  ASSERT_EQ(read->rows.size(), 2u);
  EXPECT_EQ(read->rows[0].row, answer.rows[0].row);
  EXPECT_EQ(read->rows[0].age, 2s) << "never younger";
  EXPECT_EQ(read->rows[1].age, 0s);
  ASSERT_EQ(read->ages.size(), 1u);
  EXPECT_EQ(read->ages[0].age, 10s);
  EXPECT_EQ(*DecodeRow(EncodeRow(answer.self)), answer.self);
}

// The text that another build sends.
TEST(MemberCodecTest, UnknownFieldsAreIgnoredAndMalformedRowsLeftOut) {
  const absl::StatusOr<MembersAnswer> read = DecodeMembers(R"({
    "later": {"x": [1]},
    "self": {"name": "s", "addresses": ["10.0.0.1:7301"], "protocol": 1, "start": 5, "weight": 3},
    "rows": [
      {"name": "a", "addresses": ["[fd00:0::1]:7301"], "protocol": 1, "start": 6, "age": 7},
      {"name": "no-age", "addresses": ["10.0.0.2:7301"], "protocol": 1, "start": 6},
      {"name": "before", "addresses": ["10.0.0.2:7301"], "protocol": 1, "start": 6, "age": -1},
      {"name": "text", "addresses": ["10.0.0.2:7301"], "protocol": 1, "start": 6, "age": "1"},
      {"name": "host", "addresses": ["example:7301"], "protocol": 1, "start": 6, "age": 1},
      {"name": "minus", "addresses": ["10.0.0.2:7301"], "protocol": 1, "start": -6, "age": 1},
      {"name": "\u0007", "addresses": ["10.0.0.2:7301"], "protocol": 1, "start": 6, "age": 1},
      {"name": 5}, 7, null, []],
    "ages": [["a", 6, 1], ["a", 6], ["a", 6, -1], ["a", "6", 1], {}, 5]})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->self.name, "s");
  ASSERT_EQ(read->rows.size(), 1u);
  EXPECT_THAT(read->rows[0].row.addresses, ElementsAre(HostPort{"fd00::1", 7301}));
  EXPECT_EQ(read->rows[0].age, 7s);
  EXPECT_EQ(read->ages.size(), 1u);
}

TEST(MemberCodecTest, WhatIsNoTableIsRefused) {
  for (const std::string text :
       {"", "{}", "[]", "null", "{\"self\":5}", "{\"self\":{}}", "{\"self\":", "\xff\xfe"})
    EXPECT_FALSE(DecodeMembers(text).ok()) << text;
  EXPECT_FALSE(DecodeMembers(std::string(1 << 19, '[')).ok());
  EXPECT_FALSE(DecodeMembers(std::string(kMembersBytesMax + 1, ' ')).ok());
  EXPECT_FALSE(DecodeRow("{\"name\":\"a\"}").ok());
}

TEST(MemberCodecTest, NestingAsDeepAsAnAnswerIsLongEndsNoProcess) {
  const std::string self = EncodeRow(RowOf("a", {At(1)}));
  const size_t depth = (kMembersBytesMax - self.size() - 100) / 2;
  const std::string deep = std::string(depth, '[') + std::string(depth, ']');
  EXPECT_TRUE(DecodeMembers(absl::StrCat("{\"self\":", self, ",\"more\":", deep, "}")).ok());
  EXPECT_FALSE(DecodeRow(deep).ok());
  EXPECT_FALSE(DecodeRow(std::string(kMembersBytesMax, '[')).ok());
}

TEST(MemberCodecTest, ALongTableIsCutAtTheBound) {
  MembersAnswer answer;
  answer.self = RowOf("self", {At(0)});
  for (int i = 0; i < 20000; ++i) answer.rows.push_back({RowOf(absl::StrCat("member-", i), {At(i)}), 1s});
  const std::string text = EncodeMembers(answer);
  EXPECT_LE(text.size(), kMembersBytesMax);
  EXPECT_GT(text.size(), kMembersBytesMax - 200);
  ASSERT_TRUE(DecodeMembers(text).ok());
  EXPECT_GT(DecodeMembers(text)->rows.size(), 5000u);
}

TEST(MemberCodecTest, HashesAreHexadecimal) {
  RowHashes hashes{};
  hashes[0] = 0xdeadbeef;
  hashes[31] = 1;
  const std::string text = EncodeHashes(hashes);
  EXPECT_EQ(text.size(), 256u);
  EXPECT_EQ(DecodeHashes(text), hashes);
  EXPECT_FALSE(DecodeHashes(text.substr(1)));
  EXPECT_FALSE(DecodeHashes(text.substr(1) + "g"));
  EXPECT_EQ(DecodeBuckets(EncodeBuckets(0x80000001)), 0x80000001);
  EXPECT_FALSE(DecodeBuckets(""));
  EXPECT_FALSE(DecodeBuckets("-0000001"));
}

// ------------------------------------------------------------------------------------------------- rounds

class MemberRoundsTest : public MemberTableTest {
 protected:
  MemberRounds rounds_{10s, [this](size_t bound) { return random_++ % bound; }, now_};
  size_t random_ = 0;
};

TEST_F(MemberRoundsTest, TwoMembersAndOneUnnamedAddressAreAsked) {
  EXPECT_THAT(rounds_.Next(table_), IsEmpty());
  Dns({At(1), At(2), At(3), At(4)});
  EXPECT_EQ(rounds_.Next(table_).size(), 1u);
  From("a", 1);
  EXPECT_EQ(rounds_.Next(table_).size(), 2u);
  From("b", 2);
  From("c", 3);
  const auto targets = rounds_.Next(table_);
  ASSERT_EQ(targets.size(), 3u);
  EXPECT_NE(targets[0].name, targets[1].name);
  EXPECT_EQ(targets[2].name, "");
  EXPECT_EQ(targets[2].address, At(4));
}

TEST_F(MemberRoundsTest, RumoursAreAskedTwoAtATime) {
  From("a", 1);
  for (int i = 10; i < 20; ++i) Hear("a", i, 0s, 6);
  const auto targets = rounds_.Next(table_);
  ASSERT_EQ(targets.size(), 3u);
  EXPECT_EQ(targets[0].name, "a");
  EXPECT_EQ(targets[1].name, "");
  EXPECT_NE(targets[1].address, targets[2].address);
}

TEST_F(MemberRoundsTest, TheColdStartEndsAfterTwoAnsweredRoundsWithoutNewsOrThreeSeconds) {
  using Result = MemberRounds::Result;
  EXPECT_LT(rounds_.Ended(Result::kNews, now_), 200ms);
  EXPECT_LT(rounds_.Ended(Result::kNothingNew, now_), 200ms);
  EXPECT_LT(rounds_.Ended(Result::kNews, now_), 200ms);
  EXPECT_LT(rounds_.Ended(Result::kNothingNew, now_), 200ms);
  EXPECT_LT(rounds_.Ended(Result::kNoAnswer, now_), 200ms) << "who is not answered learns nothing";
  EXPECT_TRUE(rounds_.in_cold_start());
  const Duration wait = rounds_.Ended(Result::kNothingNew, now_);
  EXPECT_FALSE(rounds_.in_cold_start());
  EXPECT_GE(wait, 7500ms);
  EXPECT_LE(wait, 12500ms);

  MemberRounds alone(
      10s, [](size_t) { return size_t{0}; }, now_);
  alone.Ended(Result::kNoAnswer, now_ + 3s - 1ns);
  EXPECT_TRUE(alone.in_cold_start());
  alone.Ended(Result::kNoAnswer, now_ + 3s);
  EXPECT_FALSE(alone.in_cold_start());
  alone.Ended(Result::kNews, now_ + 4s);
  EXPECT_FALSE(alone.in_cold_start());
}

TEST_F(MemberRoundsTest, TheColdStartEndsWhereNobodyListensAtAnyAddress) {
  rounds_.Ended(MemberRounds::Result::kNoAnswer, now_);
  EXPECT_TRUE(rounds_.in_cold_start());
  EXPECT_GE(rounds_.Ended(MemberRounds::Result::kNobodyThere, now_), 7500ms);
  EXPECT_FALSE(rounds_.in_cold_start());
}

}  // namespace
}  // namespace sluice::p2p
