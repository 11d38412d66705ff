#include "node/daemon/locality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "p2p/registry/platform_match.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using api::ImageLocality;
using api::LocalityScope;
using api::NodeShare;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Digest NameOf(uint8_t first) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes[0] = first;
  return Digest(bytes);
}

BlobSpec SpecOf(uint8_t name, uint64_t size) {
  return {
      .digest = NameOf(name), .size = size, .root = NameOf(static_cast<uint8_t>(name + 100)), .origins = {}};
}

class FakePreparer final : public ImagePreparer {
 public:
  absl::StatusOr<std::string> Check(const std::string& reference) const override {
    if (reference == "malformed") return absl::InvalidArgumentError("it is none");
    if (reference == "forbidden") return absl::PermissionDeniedError("not on the allow-list");
    return "r/" + reference;
  }
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference,
                                        const p2p::Platform& platform) override {
    resolved.push_back(absl::StrCat(reference, " ", platform.architecture));
    const auto found = images.find(reference);
    if (found == images.end()) return absl::NotFoundError(reference + " is nowhere");
    return ResolvedImage{{}, NameOf(200), found->second};
  }
  absl::StatusOr<BlobSpec> FindBlob(const std::string&, uint64_t) override {
    return absl::UnimplementedError("not asked here");
  }
  absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec&, const PrepareBounds&) override {
    return absl::UnimplementedError("not asked here");
  }
  absl::StatusOr<PreparedImage> Prepare(const ResolvedImage&, const PrepareBounds&) override {
    ADD_FAILURE() << "nothing is to be fetched";
    return absl::UnavailableError("no");
  }

  std::map<std::string, p2p::LazyImage> images;
  std::vector<std::string> resolved;
};

class LocalityTest : public ::testing::Test {
 protected:
  LocalityTest() {
    preparer_.images["r/app"] = {SpecOf(9, 4096), {SpecOf(1, 100), SpecOf(2, 1000), SpecOf(3, 2000)}};
    preparer_.images["r/other"] = {SpecOf(8, 4096), {SpecOf(2, 1000), SpecOf(4, 100)}};
    present_[NameOf(1)] = 100;
    present_[NameOf(2)] = 500;
    Use({});
  }

  void Use(Locality::Limits limits, bool in_cluster = true) {
    Locality::Parts parts{clock_,
                          lookups_,
                          timers_,
                          preparer_,
                          [this](const BlobSpec& spec) {
                            const auto found = present_.find(spec.digest);
                            return found == present_.end() ? 0 : found->second;
                          },
                          nullptr,
                          nullptr};
    if (in_cluster) {
      parts.own_name = [] { return std::string("me"); };
      parts.ask_shares = [this](const p2p::BlobIdentity& blob, Locality::OnShares done) {
        asked_.emplace_back(blob.digest, std::move(done));
      };
    }
    locality_ = std::make_unique<Locality>(std::move(parts), limits);
  }

  // What is answered; nothing before.
  using Answer = std::shared_ptr<std::optional<absl::StatusOr<std::vector<ImageLocality>>>>;
  Answer Ask(std::vector<std::string> references, LocalityScope scope = LocalityScope::kNode,
             std::optional<api::HintPlatform> platform = {}) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<std::vector<ImageLocality>>>>();
    locality_->GetLocality({std::move(references), std::move(platform), scope}, clock_.now + seconds(4),
                           [answer](auto images) {
                             EXPECT_FALSE(answer->has_value()) << "twice";
                             *answer = std::move(images);
                           });
    return answer;
  }
  // One after the other, until nobody is asked any more.
  void OthersSay(const std::map<Digest, std::vector<p2p::HolderShare>>& known) {
    while (!asked_.empty()) {
      auto [digest, done] = std::move(asked_.front());
      asked_.erase(asked_.begin());
      const auto found = known.find(digest);
      std::move(done)(found == known.end() ? std::vector<p2p::HolderShare>() : found->second);
    }
  }
  void OthersAreSilent() {
    while (!asked_.empty()) {
      auto done = std::move(asked_.front().second);
      asked_.erase(asked_.begin());
      std::move(done)(std::nullopt);
    }
  }
  static const std::vector<ImageLocality>& Of(const Answer& answer) {
    static const std::vector<ImageLocality> kNone(10);
    EXPECT_TRUE(answer->has_value()) << "no answer";
    if (!answer->has_value()) return kNone;
    EXPECT_TRUE((*answer)->ok()) << (*answer)->status();
    return (*answer)->ok() ? ***answer : kNone;
  }

  fakes::FakeClock clock_;
  fakes::ManualExecutor lookups_{clock_}, timers_{clock_};
  FakePreparer preparer_;
  std::map<Digest, uint64_t> present_;
  std::vector<std::pair<Digest, Locality::OnShares>> asked_;
  std::unique_ptr<Locality> locality_;
};

TEST_F(LocalityTest, TellsWhatIsHereAndAsksNobodyElse) {
  const Answer answer = Ask({"app", "other"});
  EXPECT_FALSE(answer->has_value()) << "nobody knows the images yet";
  lookups_.Run();
  const std::vector<ImageLocality>& images = Of(answer);
  ASSERT_THAT(images, SizeIs(2));
  EXPECT_EQ(images[0].reference, "r/app");
  EXPECT_EQ(images[0].manifest, NameOf(200));
  EXPECT_EQ(images[0].total_bytes, 3100u);
  EXPECT_EQ(images[0].present_bytes, 600u);
  EXPECT_THAT(images[0].nodes, IsEmpty());
  EXPECT_EQ(images[1].total_bytes, 1100u);
  EXPECT_EQ(images[1].present_bytes, 500u);
  EXPECT_THAT(asked_, IsEmpty());
}

TEST_F(LocalityTest, AnImageIsLookedUpOnceForAMoment) {
  const Answer first = Ask({"app", "app"}), second = Ask({"app"});
  lookups_.Run();
  EXPECT_THAT(Of(first), SizeIs(2));
  EXPECT_EQ(Of(second)[0].total_bytes, 3100u);
  EXPECT_THAT(preparer_.resolved, SizeIs(1));
  present_[NameOf(3)] = 2000;
  EXPECT_EQ(Of(Ask({"app"}))[0].present_bytes, 2600u) << "what is here is of now";
  clock_.now += Locality::Limits{}.image_kept - seconds(1);
  EXPECT_TRUE(Ask({"app"})->has_value());
  clock_.now += seconds(1);
  const Answer later = Ask({"app"});
  EXPECT_FALSE(later->has_value());
  lookups_.Run();
  EXPECT_EQ(Of(later)[0].total_bytes, 3100u);
  EXPECT_THAT(preparer_.resolved, SizeIs(2));
}

TEST_F(LocalityTest, AnotherPlatformIsAnotherImage) {
  const Answer own = Ask({"app"});
  const Answer other = Ask({"app"}, LocalityScope::kNode, api::HintPlatform{"linux", "riscv64", ""});
  lookups_.Run();
  EXPECT_THAT(preparer_.resolved, ElementsAre("r/app " + p2p::ThisCpu().architecture, "r/app riscv64"));
}

TEST_F(LocalityTest, WhatIsWrongWithOneImageIsSaidOfItAlone) {
  const Answer answer = Ask({"forbidden", "app", "missing"});
  lookups_.Run();
  const std::vector<ImageLocality>& images = Of(answer);
  ASSERT_THAT(images, SizeIs(3));
  EXPECT_TRUE(absl::IsPermissionDenied(images[0].error));
  EXPECT_EQ(images[0].reference, "forbidden");
  EXPECT_TRUE(images[1].error.ok());
  EXPECT_TRUE(absl::IsNotFound(images[2].error));
  const Answer malformed = Ask({"app", "malformed"});
  EXPECT_TRUE(absl::IsInvalidArgument((*malformed)->status()));
  EXPECT_THAT(std::string((*malformed)->status().message()), HasSubstr("references[1]"));
}

TEST_F(LocalityTest, WhatIsNotKnownInTimeIsSaidAndLookedUpFurther) {
  EXPECT_TRUE(Of([&] {
                const Answer known = Ask({"other"});
                lookups_.Run();
                return known;
              }())[0]
                  .error.ok());
  const Answer answer = Ask({"app", "other"});
  clock_.now += Locality::Limits{}.lookup_wait;
  timers_.Run();
  const std::vector<ImageLocality>& images = Of(answer);
  EXPECT_TRUE(absl::IsDeadlineExceeded(images[0].error));
  EXPECT_TRUE(images[0].error.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  EXPECT_EQ(images[1].present_bytes, 500u);
  lookups_.Run();
  EXPECT_EQ(Of(Ask({"app"}))[0].total_bytes, 3100u);
  EXPECT_THAT(preparer_.resolved, SizeIs(2));
}

TEST_F(LocalityTest, LookupsAreBounded) {
  Use({.lookups_max = 1});
  const Answer answer = Ask({"app", "other"});
  lookups_.Run();
  EXPECT_TRUE(Of(answer)[0].error.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Of(answer)[1].error));
  EXPECT_EQ(preparer_.resolved.size(), 1u);
}

TEST_F(LocalityTest, InTheClusterThoseComeFirstThatHaveMostInAll) {
  const Answer answer = Ask({"app"}, LocalityScope::kCluster);
  lookups_.Run();
  EXPECT_FALSE(answer->has_value());
  EXPECT_THAT(asked_, SizeIs(3));
  // What others say of this node is older than what it knows; more than all is all.
  OthersSay({{NameOf(1), {{"a", 100}, {"b", 100}, {"me", 3}}},
             {NameOf(2), {{"a", 1}, {"c", 5000}}},
             {NameOf(3), {{"b", 1500}, {"d", 0}}}});
  EXPECT_THAT(Of(answer)[0].nodes, ElementsAre(NodeShare{"b", 1600}, NodeShare{"c", 1000},
                                               NodeShare{"me", 600}, NodeShare{"a", 101}));
}

TEST_F(LocalityTest, TheBestFiftyAreTold) {
  const Answer answer = Ask({"other"}, LocalityScope::kCluster);
  lookups_.Run();
  std::vector<p2p::HolderShare> many;
  for (uint64_t i = 1; i <= 60; ++i) many.push_back({absl::StrCat("n", i), i});
  OthersSay({{NameOf(2), many}});
  ASSERT_THAT(Of(answer)[0].nodes, SizeIs(api::kLocalityNodesMax));
  EXPECT_EQ(Of(answer)[0].nodes.front(), (NodeShare{"me", 500}));
  EXPECT_EQ(Of(answer)[0].nodes.back(), (NodeShare{"n12", 12}));
}

TEST_F(LocalityTest, OthersAreAskedOncePerBlobForAMoment) {
  Answer answer = Ask({"app", "other"}, LocalityScope::kCluster);
  lookups_.Run();
  EXPECT_THAT(asked_, SizeIs(4)) << "one blob is of both";
  OthersSay({{NameOf(2), {{"a", 7}}}});
  EXPECT_THAT(Of(answer)[1].nodes, ElementsAre(NodeShare{"me", 500}, NodeShare{"a", 7}));
  answer = Ask({"other"}, LocalityScope::kCluster);
  EXPECT_THAT(Of(answer)[0].nodes, ElementsAre(NodeShare{"me", 500}, NodeShare{"a", 7}));
  clock_.now += Locality::Limits{}.shares_kept;
  answer = Ask({"other"}, LocalityScope::kCluster);
  EXPECT_THAT(asked_, SizeIs(2));
  OthersSay({{NameOf(2), {{"a", 8}}}});
  EXPECT_EQ(Of(answer)[0].nodes.back(), (NodeShare{"a", 8}));
}

TEST_F(LocalityTest, WhereNobodyAnsweredThatIsSaid) {
  Answer answer = Ask({"app"}, LocalityScope::kCluster);
  lookups_.Run();
  OthersAreSilent();
  EXPECT_TRUE(absl::IsUnavailable(Of(answer)[0].error));
  // Nor is it kept: who asks again asks.
  answer = Ask({"app"}, LocalityScope::kCluster);
  EXPECT_THAT(asked_, SizeIs(3));
  clock_.now += seconds(4);
  timers_.Run();
  EXPECT_TRUE(absl::IsUnavailable(Of(answer)[0].error));
  OthersSay({});
}

TEST_F(LocalityTest, QuestionsAreBoundedAtOnceAndInAll) {
  Use({.blobs_asked_max = 3, .questions_at_once = 2});
  const Answer answer = Ask({"app", "other"}, LocalityScope::kCluster);
  lookups_.Run();
  EXPECT_THAT(asked_, SizeIs(2));
  OthersSay({});
  EXPECT_TRUE(Of(answer)[0].error.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Of(answer)[1].error));
}

TEST_F(LocalityTest, ANodeOfNoClusterSaysSo) {
  Use({}, /*in_cluster=*/false);
  EXPECT_TRUE(absl::IsFailedPrecondition((*Ask({"app"}, LocalityScope::kCluster))->status()));
  const Answer here = Ask({"app"});
  lookups_.Run();
  EXPECT_EQ(Of(here)[0].present_bytes, 600u);
}

}  // namespace
}  // namespace sluice
