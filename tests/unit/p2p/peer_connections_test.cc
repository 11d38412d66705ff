#include "p2p/http/peer_connections.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice::p2p {
namespace {

using std::chrono::milliseconds;

class PeerConnectionsTest : public ::testing::Test {
 protected:
  // A request that needs a connection of its own, which then stands.
  bool Begin(FetchClass fetch_class = FetchClass::kDemand) {
    const std::string to = "node " + std::to_string(next_);
    if (!connections_.Start(to, fetch_class, now_)) return false;
    connections_.Opened(next_++, to, now_);
    return true;
  }
  int BeginAll(FetchClass fetch_class = FetchClass::kDemand) {
    int begun = 0;
    while (Begin(fetch_class)) ++begun;
    return begun;
  }

  PeerConnections connections_;
  Instant now_ = Instant(std::chrono::hours(1));
  int next_ = 3;
};

TEST_F(PeerConnectionsTest, FiftyBeginInAnySecondAndSomeMoreAfterAPause) {
  EXPECT_EQ(BeginAll(), 60);
  EXPECT_EQ(connections_.NextBegin(FetchClass::kDemand), now_ + milliseconds(20));
  now_ += milliseconds(19);
  EXPECT_EQ(BeginAll(), 0);
  now_ += milliseconds(1);
  EXPECT_EQ(BeginAll(), 1);
  now_ += milliseconds(1000);
  EXPECT_EQ(BeginAll(), 50);
  now_ += milliseconds(1199);
  EXPECT_EQ(BeginAll(), 59);
  // However long the pause.
  now_ += std::chrono::hours(1);
  EXPECT_EQ(BeginAll(), 60);
  // Those that come one after the other use nothing up.
  now_ += milliseconds(1200);
  for (int i = 0; i < 100; ++i, now_ += milliseconds(20)) EXPECT_TRUE(Begin());
  EXPECT_EQ(BeginAll(), 60);
}

TEST_F(PeerConnectionsTest, FillsLeaveSomeToDemand) {
  EXPECT_EQ(BeginAll(FetchClass::kBackfill), 45);
  EXPECT_EQ(BeginAll(FetchClass::kDemand), 15);
  EXPECT_FALSE(Begin(FetchClass::kBackfill));
  // They get what comes in once as much is there as is kept.
  now_ += milliseconds(300);
  EXPECT_EQ(BeginAll(FetchClass::kBackfill), 0);
  now_ += milliseconds(400);
  EXPECT_EQ(BeginAll(FetchClass::kBackfill), 20);
  EXPECT_EQ(BeginAll(FetchClass::kDemand), 15);
}

TEST_F(PeerConnectionsTest, AKeptConnectionTakesTheNextRequest) {
  ASSERT_TRUE(Begin());
  const std::string to = "node 3";
  connections_.End(to);
  EXPECT_EQ(BeginAll(), 59);
  EXPECT_TRUE(connections_.Start(to, FetchClass::kBackfill, now_)) << "one is kept";
  EXPECT_FALSE(connections_.Start(to, FetchClass::kDemand, now_)) << "it is taken now";
  connections_.End(to);
  connections_.Closed(3);
  EXPECT_FALSE(connections_.Start(to, FetchClass::kDemand, now_)) << "it is closed";
}

// One that was kept may turn out to be dead, and another is opened in its place.
TEST_F(PeerConnectionsTest, AConnectionThatNobodyExpectedCountsToo) {
  ASSERT_TRUE(Begin());
  connections_.End("node 3");
  EXPECT_TRUE(connections_.Start("node 3", FetchClass::kDemand, now_));
  connections_.Closed(3);
  connections_.Opened(1000, "node 3", now_);
  EXPECT_EQ(BeginAll(), 58);
}

TEST_F(PeerConnectionsTest, HoweverManyNobodyExpectedTheNextBeginsSoon) {
  for (int socket = 1000; socket < 1500; ++socket) connections_.Opened(socket, "others", now_);
  EXPECT_EQ(BeginAll(), 0);
  now_ += milliseconds(20);
  EXPECT_EQ(BeginAll(), 1);
  now_ += milliseconds(320);
  EXPECT_TRUE(Begin(FetchClass::kBackfill));
}

TEST_F(PeerConnectionsTest, OneThatNeverOpenedIsForgotten) {
  ASSERT_TRUE(connections_.Start("a", FetchClass::kDemand, now_));
  connections_.End("a");
  EXPECT_EQ(BeginAll(), 59);
  EXPECT_FALSE(connections_.Start("a", FetchClass::kDemand, now_)) << "there is none to be had";
  connections_.Closed(12345);
}

}  // namespace
}  // namespace sluice::p2p
