#include "node/daemon/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

p2p::Members::List Others(int count) {
  p2p::Members::List others;
  for (int i = 0; i < count; ++i)
    others.push_back({{"10.0.0.1", 7301}, absl::StrCat("node-", i), 0, false, {}});
  return others;
}

TEST(OwnRowTest, ANameThatFitsInNoListIsAClearError) {
  Config config;
  config.cluster_listen = "10.0.0.1:7301";
  for (const char* name : {"a,b", "a\"b", "a\\b", "a b", "a\nb"}) {
    config.cluster_name = name;
    const absl::StatusOr<p2p::MemberRow> row = OwnRow(config, {"10.0.0.1", 7301}, "east");
    EXPECT_TRUE(absl::IsInvalidArgument(row.status())) << name;
    EXPECT_THAT(std::string(row.status().message()), AllOf(HasSubstr("cluster.name"), HasSubstr("comma")));
  }
  config.cluster_name = "node-1.example";
  EXPECT_EQ(OwnRow(config, {"10.0.0.1", 7301}, "east")->name, "node-1.example");
}

TEST(DescribeOthersTest, NamesAtMostTen) {
  EXPECT_EQ(DescribeOthers({}), "0 other members");
  EXPECT_EQ(DescribeOthers(Others(2)), "2 other members: node-0, node-1");
  EXPECT_EQ(
      DescribeOthers(Others(10)),
      "10 other members: node-0, node-1, node-2, node-3, node-4, node-5, node-6, node-7, node-8, node-9");
  EXPECT_EQ(DescribeOthers(Others(1000)),
            "1000 other members: node-0, node-1, node-2, node-3, node-4, node-5, node-6, node-7, node-8, "
            "node-9 and 990 more");
}

TEST(OwnRowTest, AnAddressWithoutAPortIsAtThePortThatIsListenedOn) {
  Config config;
  config.cluster_name = "node-1";
  config.cluster_advertise = {"10.1.2.3", "fd00::7", "10.1.2.4:9000"};
  const absl::StatusOr<p2p::MemberRow> row = OwnRow(config, {"0.0.0.0", 7301}, "");
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_THAT(row->addresses,
              ::testing::UnorderedElementsAre(p2p::HostPort{"10.1.2.3", 7301}, p2p::HostPort{"fd00::7", 7301},
                                              p2p::HostPort{"10.1.2.4", 9000}));
  config.cluster_advertise = {"a name"};
  EXPECT_TRUE(absl::IsInvalidArgument(OwnRow(config, {"0.0.0.0", 7301}, "").status()));
}

}  // namespace
}  // namespace sluice
