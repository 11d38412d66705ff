#include "p2p/cluster/resolver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

namespace sluice::p2p {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::ElementsAre;

TEST(ResolveHostTest, TheHostsFileAndLiteralsNeedNoServer) {
  const auto local = ResolveHost("localhost", 5s);
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_THAT(*local, Contains("127.0.0.1"));
  const auto literal = ResolveHost("10.1.2.3", 5s);
  ASSERT_TRUE(literal.ok()) << literal.status();
  EXPECT_THAT(*literal, ElementsAre("10.1.2.3"));
}

TEST(ResolveHostTest, AnErrorIsOneEvenWithoutTime) {
  EXPECT_FALSE(ResolveHost("nobody.invalid", 0s).ok());
  EXPECT_FALSE(ResolveHost(std::string(300, 'a'), 5s).ok());
  EXPECT_FALSE(ResolveHost("a..b", 5s).ok());
  EXPECT_FALSE(ResolveHost("", 5s).ok());
}

}  // namespace
}  // namespace sluice::p2p
