#include "p2p/registry/allow_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

bool Permits(const std::vector<std::string>& patterns, const BlobOrigin& origin) {
  const absl::StatusOr<AllowList> list = AllowList::Create(patterns);
  EXPECT_TRUE(list.ok()) << list.status();
  return list->Permits(origin).ok();
}

TEST(AllowList, EmptyPermitsNothing) {
  EXPECT_FALSE(Permits({}, {"r.example", "a"}));
}

TEST(AllowList, StarPermitsAll) {
  EXPECT_TRUE(Permits({"*"}, {"r.example:5000", "a/b/c"}));
}

TEST(AllowList, MatchesWholeNames) {
  EXPECT_TRUE(Permits({"r.example/team/app"}, {"r.example", "team/app"}));
  EXPECT_FALSE(Permits({"r.example/team/app"}, {"r.example", "team/app2"}));
  EXPECT_FALSE(Permits({"r.example/team/app"}, {"xr.example", "team/app"}));
  EXPECT_FALSE(Permits({"r.example/team/app"}, {"r.example:5000", "team/app"}));
}

TEST(AllowList, StarsMatchRuns) {
  EXPECT_TRUE(Permits({"r.example/team/*"}, {"r.example", "team/a/b"}));
  EXPECT_FALSE(Permits({"r.example/team/*"}, {"r.example", "team"}));
  EXPECT_TRUE(Permits({"*.example/*-dev"}, {"eu.example", "x-dev-dev"}));
  EXPECT_FALSE(Permits({"*.example/*-dev"}, {"eu.example", "x-dev-prod"}));
  EXPECT_TRUE(Permits({"no.example/a", "r.example/*a*b*c"}, {"r.example", "aXbbXc"}));
}

TEST(AllowList, ARepositoryCanNotPoseAsARegistry) {
  EXPECT_FALSE(Permits({"*.example/app"}, {"evil.test", "r.example/app"}));
}

TEST(AllowList, HostilePatternTakesLinearSteps) {
  std::string pattern = "r.example/";
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_FALSE(Permits({pattern + "b"}, {"r.example", std::string(240, 'a')}));
}

TEST(AllowList, RefusalNamesTheRepositoryAndThePatterns) {
  const absl::Status status =
      AllowList::Create(std::vector<std::string>{"ok.example/*"})->Permits({"r.example", "a"});
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("r.example/a"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("ok.example/*"));
}

TEST(AllowList, RefusesPatternsThatCanNotMatch) {
  for (const std::string& pattern : {std::string(), std::string("r.example"), std::string("r.example/"),
                                     std::string("/a"), std::string(kAllowPatternBytesMax + 1, '*')}) {
    EXPECT_EQ(AllowList::Create(std::vector{pattern}).status().code(), absl::StatusCode::kInvalidArgument)
        << pattern;
  }
  EXPECT_FALSE(AllowList::Create(std::vector<std::string>(kAllowPatternsMax + 1, "*")).ok());
}

}  // namespace
}  // namespace sluice::p2p
