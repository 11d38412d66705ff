#include "p2p/cluster/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/peer_source.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;

Members::List MembersOf(int count) {
  Members::List list;
  for (int i = 1; i <= count; ++i) {
    const HostPort address{absl::StrCat("10.0.0.", i), 5000};
    list.push_back({address, address.ToString(), ScoreKeyOf(address.ToString())});
  }
  return list;
}

std::vector<std::string> NamesOf(const std::vector<Member>& members) {
  std::vector<std::string> names;
  for (const Member& member : members) names.push_back(member.name);
  return names;
}

class AssignmentTest : public ::testing::Test {
 protected:
  std::vector<std::string> Choose(const Members::List& list, uint64_t blob_key, uint64_t stripe,
                                  size_t count) {
    return NamesOf(ChooseMembers(list, health_, blob_key, stripe, count, now_));
  }
  const Instant now_{1h};
  MemberHealth health_;
};

TEST_F(AssignmentTest, StripesAreA64thOfTheBlobWithinBounds) {
  constexpr uint64_t kKi = 1 << 10, kMi = 1 << 20;
  EXPECT_EQ(StripeBytes(1), 256 * kKi);
  EXPECT_EQ(StripeBytes(16 * kMi), 256 * kKi);
  EXPECT_EQ(StripeBytes(32 * kMi - 1), 256 * kKi);
  EXPECT_EQ(StripeBytes(32 * kMi), 512 * kKi);
  EXPECT_EQ(StripeBytes(100 * kMi), kMi);
  EXPECT_EQ(StripeBytes(256 * kMi - 1), 2 * kMi);
  EXPECT_EQ(StripeBytes(256 * kMi), 4 * kMi);
  EXPECT_EQ(StripeBytes(kBlobSizeMax), 4 * kMi);
}

// Computed apart from this code. Two builds that disagree here ask different members: this is protocol.
TEST_F(AssignmentTest, ScoresAreTheProtocols) {
  const struct {
    const char* blob;
    uint64_t stripe;
    const char* member;
    uint64_t score;
  } kVectors[] = {
      {"", 0, "10.0.0.1:5000", 0xbbb2daaee20ddfae},     {"", 0, "[fd00::1]:5000", 0x4b5afaad600bca01},
      {"", 1, "10.0.0.1:5000", 0xc56342f13f8def5f},     {"", 1, "[fd00::1]:5000", 0xef8f33bf39692e27},
      {"", 63, "10.0.0.1:5000", 0xaeda334815849e61},    {"", 63, "[fd00::1]:5000", 0xeec66676bd38f1a8},
      {"abc", 0, "10.0.0.1:5000", 0x63f93f30a39fee63},  {"abc", 0, "[fd00::1]:5000", 0xc9ed0aadbda82405},
      {"abc", 1, "10.0.0.1:5000", 0xa80ae54dc615d422},  {"abc", 1, "[fd00::1]:5000", 0x895ad3bcce3ec9c9},
      {"abc", 63, "10.0.0.1:5000", 0xbb77b94494451e5e}, {"abc", 63, "[fd00::1]:5000", 0x66f789870750d197},
  };
  for (const auto& v : kVectors) {
    EXPECT_EQ(Score(ScoreKeyOf(Sha256::Of(v.blob)), v.stripe, ScoreKeyOf(v.member)), v.score)
        << v.blob << " " << v.stripe << " " << v.member;
  }
}

TEST_F(AssignmentTest, TheOrderOfTheListDoesNotMatter) {
  Members::List list = MembersOf(20);
  std::mt19937 random(1);
  for (uint64_t stripe = 0; stripe < 50; ++stripe) {
    const uint64_t blob = ScoreKeyOf(Sha256::Of(absl::StrCat(stripe)));
    const std::vector<std::string> before = Choose(list, blob, stripe, 3);
    std::shuffle(list.begin(), list.end(), random);
    EXPECT_EQ(Choose(list, blob, stripe, 3), before);
    EXPECT_EQ(std::set<std::string>(before.begin(), before.end()).size(), 3u);
  }
}

TEST_F(AssignmentTest, ATieGoesToTheLesserName) {
  Members::List list = MembersOf(3);
  for (Member& member : list) member.score_key = 7;
  std::reverse(list.begin(), list.end());
  EXPECT_EQ(Choose(list, 1, 1, 3),
            (std::vector<std::string>{"10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.3:5000"}));
}

TEST_F(AssignmentTest, EightMembersShareTheStripesEvenly) {
  const Members::List list = MembersOf(8);
  std::map<std::string, int> first, second;
  constexpr int kBlobs = 200, kStripes = 64;
  for (int blob = 0; blob < kBlobs; ++blob) {
    const uint64_t key = ScoreKeyOf(Sha256::Of(absl::StrCat("blob ", blob)));
    for (uint64_t stripe = 0; stripe < kStripes; ++stripe) {
      const std::vector<std::string> names = Choose(list, key, stripe, 2);
      ++first[names[0]];
      ++second[names[1]];
    }
  }
  constexpr int kShare = kBlobs * kStripes / 8;
  ASSERT_EQ(first.size(), 8u);
  ASSERT_EQ(second.size(), 8u);
  for (const auto& counts : {first, second}) {
    for (const auto& [name, count] : counts) EXPECT_NEAR(count, kShare, kShare / 10) << name;
  }
}

TEST_F(AssignmentTest, WhenOneLeavesOnlyItsOwnStripesMove) {
  Members::List list = MembersOf(8);
  const uint64_t blob = ScoreKeyOf(Sha256::Of("blob"));
  std::vector<std::vector<std::string>> before;
  for (uint64_t stripe = 0; stripe < 500; ++stripe) before.push_back(Choose(list, blob, stripe, 2));
  const std::string gone = list[3].name;
  list.erase(list.begin() + 3);
  for (uint64_t stripe = 0; stripe < 500; ++stripe) {
    const std::string now = Choose(list, blob, stripe, 1)[0];
    EXPECT_EQ(now, before[stripe][0] == gone ? before[stripe][1] : before[stripe][0]);
  }
}

TEST_F(AssignmentTest, WhoIsSkippedIsLeftOutAndFewerThanAskedForAreFew) {
  const Members::List list = MembersOf(3);
  const std::vector<std::string> all = Choose(list, 1, 0, 10);
  ASSERT_EQ(all.size(), 3u);
  health_.Failed(all[0], now_);
  EXPECT_EQ(Choose(list, 1, 0, 10), (std::vector<std::string>{all[1], all[2]}));
  health_.Failed(all[1], now_);
  health_.Failed(all[2], now_);
  EXPECT_TRUE(Choose(list, 1, 0, 10).empty());
  EXPECT_TRUE(Choose({}, 1, 0, 10).empty());
}

}  // namespace
}  // namespace sluice::p2p
