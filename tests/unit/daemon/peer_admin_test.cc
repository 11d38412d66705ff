#include "node/daemon/peer_admin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "node/daemon/asio_executor.h"
#include "p2p/cluster/assignment.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

p2p::HostPort At(int number) {
  return {absl::StrCat("10.0.0.", number), 7301};
}

p2p::MemberRow RowOf(const std::string& name, int at, uint64_t start = 1) {
  return {name, {At(at)}, "z", p2p::kProtocolMajor, start};
}

class PeerAdminTest : public ::testing::Test {
 protected:
  PeerAdminTest() {
    p2p::Members::Options options;
    options.configured = {At(1), At(2), At(3), At(4)};
    options.self = At(9);
    options.row = RowOf("self", 9, 10);
    // The thread that looks after members outlives them by a moment.
    options.now = [now = now_] { return now->load(); };
    members_ = std::make_unique<p2p::Members>(std::move(options));
    members_->Start();
  }
  void HeardFrom(const p2p::MemberRow& row, int at) {
    members_->Change([&](p2p::MemberTable& table, Instant now) { table.HeardFrom(row, At(at), now); });
  }
  api::PeersReport Report() {
    return PeerAdmin({health_, clock_, members_.get()}).ListPeers().value_or(api::PeersReport());
  }
  // "name state first-address" of each.
  std::vector<std::string> Lines() {
    std::vector<std::string> lines;
    for (const api::PeerInfo& peer : Report().peers)
      lines.push_back(
          absl::StrCat(peer.name, " ", static_cast<int>(peer.state), " ", peer.addresses.front()));
    return lines;
  }
  static std::string Line(const std::string& name, api::PeerState state, int at) {
    return absl::StrCat(name, " ", static_cast<int>(state), " ", At(at).ToString());
  }

  const std::shared_ptr<std::atomic<Instant>> now_ = std::make_shared<std::atomic<Instant>>(Instant(1h));
  p2p::MemberHealth health_;
  SteadyClock clock_;
  std::unique_ptr<p2p::Members> members_;
};

TEST_F(PeerAdminTest, EachMemberHasItsStateAndTheUnnamedComeLast) {
  HeardFrom(RowOf("b", 1), 1);
  HeardFrom(RowOf("a", 2), 2);
  members_->Change([&](p2p::MemberTable& table, Instant now) {
    table.Hear({RowOf("c", 5), 5s}, now);
    table.NoteSilence("a", now);
  });
  EXPECT_THAT(Lines(),
              ElementsAre(Line("a", api::PeerState::kSilent, 2), Line("b", api::PeerState::kAlive, 1),
                          Line("c", api::PeerState::kNotAsked, 5), Line("", api::PeerState::kUnnamed, 3),
                          Line("", api::PeerState::kUnnamed, 4)));
  const api::PeersReport report = Report();
  EXPECT_EQ(report.self.name, "self");
  EXPECT_EQ(report.self.zone, "z");
  EXPECT_EQ(report.peers[2].age, 5s);
  EXPECT_EQ(report.peers[2].protocol, p2p::kProtocolMajor);
  double shares = report.self.homes_share;
  for (const api::PeerInfo& peer : report.peers) shares += peer.homes_share;
  EXPECT_DOUBLE_EQ(shares, 1);
  EXPECT_GT(report.peers[0].homes_share, 0.15);
  EXPECT_EQ(report.peers[4].homes_share, 0);
}

// What was asked of a name was asked of who serves under it; the twin's address is not shown once more.
TEST_F(PeerAdminTest, ATwinIsShownBesideWhoServes) {
  HeardFrom(RowOf("a", 1, 5), 1);
  HeardFrom(RowOf("a", 2, 3), 2);
  health_.Failed("a", *now_, "refused");
  EXPECT_THAT(Lines(),
              ElementsAre(Line("a", api::PeerState::kAlive, 1), Line("a", api::PeerState::kTwin, 2),
                          Line("", api::PeerState::kUnnamed, 3), Line("", api::PeerState::kUnnamed, 4)));
  EXPECT_EQ(Report().peers[0].failures, 1u);
  EXPECT_EQ(Report().peers[1].failures, 0u);
  EXPECT_EQ(Report().peers[1].homes_share, 0);
}

TEST_F(PeerAdminTest, ATwinOfThisNodeIsShown) {
  HeardFrom(RowOf("self", 1, 5), 1);
  EXPECT_EQ(Lines().front(), Line("self", api::PeerState::kTwin, 1));
}

TEST_F(PeerAdminTest, WhatAskingCameToIsThereOfNamesAndOfAddresses) {
  HeardFrom(RowOf("a", 1), 1);
  health_.Failed("a", *now_, "refused");
  health_.SentWrong("a", *now_, "chunk 1");
  health_.Received("a", 77, *now_);
  health_.Failed(At(2).ToString(), *now_, "no Sluice node");
  *now_ = now_->load() + 100ms;
  const api::PeersReport report = Report();
  EXPECT_EQ(report.peers[0].requests, 1u);
  EXPECT_EQ(report.peers[0].recent_bytes, 77u);
  EXPECT_EQ(report.peers[0].blame, "chunk 1");
  EXPECT_EQ(report.peers[0].blame_age, 100ms);
  EXPECT_EQ(report.peers[1].skip_reason, "no Sluice node");
  EXPECT_EQ(report.peers[1].skipped_for, 900ms);
}

TEST_F(PeerAdminTest, WhoIsCutOffSaysSo) {
  EXPECT_TRUE(Report().cluster.cut_off) << "nobody is known but by an address";
  HeardFrom(RowOf("a", 1), 1);
  HeardFrom(RowOf("b", 2), 2);
  EXPECT_FALSE(Report().cluster.cut_off);
  members_->Change([](p2p::MemberTable& table, Instant now) {
    table.NoteSilence("a", now);
    table.NoteSilence("b", now);
  });
  EXPECT_TRUE(Report().cluster.cut_off);
}

TEST(PeerAdminWithoutMembersTest, HasNone) {
  const p2p::MemberHealth health;
  const SteadyClock clock;
  PeerAdmin admin({health, clock});
  const absl::StatusOr<api::PeersReport> report = admin.ListPeers();
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->cluster.configured);
  EXPECT_THAT(report->peers, IsEmpty());
  EXPECT_EQ(admin.DialBack(clock.Now() + 1s).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice
