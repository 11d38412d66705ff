// Some hundred nodes that learn of each other: the shipped table and rounds in virtual time. One question
// takes a round trip and is answered whole; DNS names who runs and is resolved with each refresh.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/member_rounds.h"
#include "p2p/cluster/member_table.h"
#include "tests/sim/random.h"

namespace sluice::sim {
namespace {

using namespace std::chrono_literals;
using p2p::HostPort;
using p2p::MemberRounds;
using p2p::MemberTable;

constexpr Duration kRefresh = 10s;
constexpr Duration kTtl = 300s;
constexpr Duration kRoundTrip = 2ms;
// On the wire, as JSON and HTTP have them.
constexpr uint64_t kQuestionBytes = 800;  // both heads, hashes, the asker's row
constexpr uint64_t kRowBytes = 115;
constexpr uint64_t kAgeBytes = 45;

size_t NodeCount() {
  const char* const text = std::getenv("SLUICE_SIM_NODES");
  return text ? static_cast<size_t>(std::atoi(text)) : 100;
}

HostPort AddressOf(size_t node) {
  return {absl::StrCat("10.", node / 65536, ".", node / 256 % 256, ".", node % 256), 7301};
}

struct Node {
  Node(size_t number, uint64_t start, Instant now, Random& random)
      : address(AddressOf(number)),
        table({absl::StrCat("node-", number), {address}, "", p2p::kProtocolMajor, start}, kTtl),
        rounds(
            kRefresh, [&random](size_t bound) { return random.Below(bound); }, now) {}

  const HostPort address;
  MemberTable table;
  MemberRounds rounds;
  Instant resolve_at{};
  uint64_t handshakes = 0;
  uint64_t bytes = 0;
};

class Cluster {
 public:
  explicit Cluster(uint64_t seed, size_t count) : random_(seed), nodes_(count), life_(count) {}

  // Starts, or starts again, at that time; its address is in DNS from now on.
  void StartAt(size_t number, Duration delay) {
    dns_.insert(AddressOf(number));
    const size_t life = ++life_[number];
    events_.push({now_ + delay, number, life, true});
  }
  void StartAll(Duration within) {
    for (size_t i = 0; i < nodes_.size(); ++i)
      StartAt(i, within * static_cast<int>(random_.Below(1000)) / 1000);
  }
  void Kill(size_t number) {
    nodes_[number].reset();
    ++life_[number];
  }
  void LeaveDns(size_t number) { dns_.erase(AddressOf(number)); }

  void Run(Duration time) {
    const Instant end = now_ + time;
    while (!events_.empty() && events_.top().when <= end) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.when;
      if (life_[event.node] != event.life) continue;
      if (event.starts) nodes_[event.node] = std::make_unique<Node>(event.node, ++starts_, now_, random_);
      const Duration wait = RoundOf(*nodes_[event.node]);
      events_.push({now_ + kRoundTrip + wait, event.node, event.life, false});
    }
    now_ = end;
  }

  // How many nodes that run have a view with exactly so many others.
  size_t CountWithOthers(size_t others) const {
    return static_cast<size_t>(std::count_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
      return node && node->table.others().size() == others;
    }));
  }
  size_t CountThatKnow(size_t number) const {
    const std::string name = absl::StrCat("node-", number);
    return static_cast<size_t>(std::count_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
      return node && node->table.others().contains(name);
    }));
  }
  std::vector<uint64_t> Handshakes() const {
    std::vector<uint64_t> counts;
    for (const auto& node : nodes_)
      if (node) counts.push_back(node->handshakes);
    std::sort(counts.begin(), counts.end());
    return counts;
  }
  uint64_t Bytes() const {
    uint64_t bytes = 0;
    for (const auto& node : nodes_) bytes += node ? node->bytes : 0;
    return bytes;
  }

 private:
  struct Event {
    Instant when;
    size_t node;
    size_t life;
    bool starts;
    bool operator<(const Event& other) const { return when > other.when; }
  };

  Node* At(const HostPort& address) {
    unsigned b = 0, c = 0, d = 0;
    std::sscanf(address.host.c_str(), "10.%u.%u.%u", &b, &c, &d);
    return nodes_[b * 65536 + c * 256 + d].get();
  }

  Duration RoundOf(Node& node) {
    if (now_ >= node.resolve_at) {
      node.table.SetAddresses({}, dns_, dns_, now_);
      node.resolve_at = now_ + kRefresh;
    }
    node.table.Expire(now_);
    bool answered = false, news = false;
    for (const MemberRounds::Target& target : node.rounds.Next(node.table)) {
      Node* const asked = At(target.address);
      if (!asked) {
        node.table.NoteSilence(target.address, now_);
        continue;
      }
      answered = true;
      news = Ask(node, *asked) || news;
      // The asked dials back whom it doesn't know.
      const auto known = asked->table.others().find(node.table.self().name);
      if (asked != &node &&
          (known == asked->table.others().end() || known->second.row.start != node.table.self().start))
        Ask(*asked, node);
    }
    return node.rounds.Ended(news       ? MemberRounds::Result::kNews
                             : answered ? MemberRounds::Result::kNothingNew
                                        : MemberRounds::Result::kNoAnswer,
                             now_);
  }

  bool Ask(Node& asker, Node& asked) {
    ++asker.handshakes;
    const auto rows = asked.table.RowsBeside(asker.table.Hashes(), now_);
    const auto ages = asked.table.AgesOf(asker.table.OldBuckets(now_), now_);
    const uint64_t bytes = kQuestionBytes + rows.size() * kRowBytes + ages.size() * kAgeBytes;
    asker.bytes += bytes;
    asked.bytes += bytes;
    bool news = asker.table.HeardFrom(asked.table.self(), asked.address, now_) == MemberTable::Merge::kNew;
    for (const MemberTable::Told& told : rows)
      news = asker.table.Hear(told, now_) == MemberTable::Merge::kNew || news;
    for (const MemberTable::ToldAge& age : ages) asker.table.HearAge(age, now_);
    return news;
  }

  Random random_;
  Instant now_{1h};
  uint64_t starts_ = 0;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<size_t> life_;
  std::set<HostPort> dns_;
  std::priority_queue<Event> events_;
};

// What tests/bench reads, from a run with --gtest_output.
void Figure(const char* name, double value) {
  ::testing::Test::RecordProperty(name, absl::StrCat(value));
}

class MembersSimTest : public ::testing::TestWithParam<int> {
 protected:
  const size_t count_ = NodeCount();
  Cluster cluster_{static_cast<uint64_t>(GetParam()), count_};
};

TEST_P(MembersSimTest, AllStartAtOnceAndKnowEachOther) {
  cluster_.StartAll(1s);
  cluster_.Run(15s);
  const size_t equal = cluster_.CountWithOthers(count_ - 1);
  EXPECT_GE(equal, count_ * 99 / 100);
  const std::vector<uint64_t> handshakes = cluster_.Handshakes();
  EXPECT_LE(handshakes[(handshakes.size() * 99 - 1) / 100], 60u);
  EXPECT_LE(handshakes.back(), 120u);
  Figure("equal_views_15s", static_cast<double>(equal) / static_cast<double>(count_));
  Figure("handshakes_p99", static_cast<double>(handshakes[(handshakes.size() * 99 - 1) / 100]));
  Figure("handshakes_max", static_cast<double>(handshakes.back()));

  cluster_.Run(45s);
  const uint64_t before = cluster_.Bytes();
  cluster_.Run(60s);
  const double idle = static_cast<double>(cluster_.Bytes() - before) / static_cast<double>(count_) / 60;
  EXPECT_LE(idle, 2048) << "bytes per second and node";
  Figure("idle_bytes_per_s", idle);
}

TEST_P(MembersSimTest, WhoLeavesForGoodIsGoneInTimeAndStaysAway) {
  cluster_.StartAll(1s);
  cluster_.Run(60s);
  cluster_.Kill(7);
  cluster_.Run(5s);
  cluster_.LeaveDns(7);
  cluster_.Run(355s);
  const size_t know_it = cluster_.CountThatKnow(7);
  EXPECT_EQ(know_it, 0u);
  EXPECT_EQ(cluster_.CountWithOthers(count_ - 2), count_ - 1) << "and nobody else";
  size_t know_it_again = 0;
  for (int i = 0; i < 30; ++i) {
    cluster_.Run(10s);
    know_it_again = std::max(know_it_again, cluster_.CountThatKnow(7));
  }
  EXPECT_EQ(know_it_again, 0u) << "it came back";
  Figure("leave_views_6min", static_cast<double>(know_it));
  Figure("leave_views_later", static_cast<double>(know_it_again));
}

TEST_P(MembersSimTest, ATenthAtATimeStartsAgainAndNobodyIsLost) {
  cluster_.StartAll(1s);
  cluster_.Run(30s);
  size_t equal_min = count_;
  for (size_t first = 0; first < count_; first += count_ / 10) {
    for (size_t i = first; i < std::min(first + count_ / 10, count_); ++i) {
      cluster_.Kill(i);
      cluster_.StartAt(i, 5s);
    }
    cluster_.Run(30s);
    // Homes move only where members do.
    const size_t equal = cluster_.CountWithOthers(count_ - 1);
    EXPECT_GE(equal, count_ * 99 / 100);
    equal_min = std::min(equal_min, equal);
  }
  Figure("rolling_equal_views_min", static_cast<double>(equal_min) / static_cast<double>(count_));
}

INSTANTIATE_TEST_SUITE_P(Seeds, MembersSimTest, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace sluice::sim
