#include "node/daemon/image_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "node/daemon/verifier_program.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/manifest.h"
#include "tests/unit/index/store_fixture.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ImagePolicyTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder_); }
  void TearDown() override {
    if (policy_) policy_->Stop();
  }

  // A program of this name that does so, after it has noted that it was asked.
  void Put(const std::string& name, const std::string& does) {
    const std::string path = absl::StrCat(folder_, "/", name);
    std::ofstream(path) << "#!/bin/sh\necho \"" << name << " $*\" >>" << asked_ << "\n" << does << "\n";
    std::filesystem::permissions(path, std::filesystem::perms(0755));
  }
  void Open(Duration timeout = 60s) {
    absl::StatusOr<std::shared_ptr<ImagePolicy>> policy =
        ImagePolicy::Open({folder_, timeout}, clock_, counters_);
    ASSERT_TRUE(policy.ok()) << policy.status();
    policy_ = *std::move(policy);
  }
  absl::Status Ask(const std::string& name, const p2p::FetchedManifest& manifest) {
    return policy_->Ask(place_, name, manifest);
  }
  absl::Status Ask() { return Ask("r.example/app:1", manifest_); }
  std::string Text(const std::string& path) const {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  size_t Count(PolicyResult result) const {
    return counters_.policy_decisions[static_cast<size_t>(result)].value();
  }
  static p2p::FetchedManifest Manifest(const std::string& body,
                                       std::string_view type = p2p::media_type::kOciManifest) {
    return {std::string(type), body, p2p::Sha256::Of(body)};
  }

  index::TempDir temp_;
  const std::string folder_ = temp_.path() + "/verifiers";
  const std::string asked_ = temp_.path() + "/asked";
  const BlobOrigin place_{"r.example", "app"};
  const p2p::FetchedManifest manifest_ = Manifest("{}");
  fakes::FakeClock clock_;
  ImageCounters counters_;
  std::shared_ptr<ImagePolicy> policy_;
};

TEST_F(ImagePolicyTest, ProgramsAreCalledAsContainerdCallsItsVerifiers) {
  Put("a", absl::StrCat("cat >", temp_.path(), "/input; env >", temp_.path(), "/environment; pwd >",
                        temp_.path(), "/at; ls /proc/self/fd | wc -l >", temp_.path(), "/open"));
  Open();
  setenv("SECRET_OF_THE_NODE", "1", 1);
  EXPECT_TRUE(Ask().ok());
  const std::string digest = manifest_.digest.ToString();
  EXPECT_EQ(Text(asked_), absl::StrCat("a -name r.example/app:1 -digest ", digest,
                                       " -stdin-media-type application/vnd.oci.descriptor.v1+json\n"));
  EXPECT_EQ(Text(temp_.path() + "/input"),
            absl::StrCat("{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"",
                         digest, "\",\"size\":2}"));
  EXPECT_EQ(Text(temp_.path() + "/at"), "/\n");
  EXPECT_EQ(Text(temp_.path() + "/open"), "4\n") << "the three, and that of the folder that is listed";
  EXPECT_THAT(Text(temp_.path() + "/environment"), AllOf(HasSubstr("PATH="), Not(HasSubstr("SECRET"))));
}

TEST_F(ImagePolicyTest, AllMustLetItPassAndTheReasonOfWhoDoesNotIsTold) {
  Put("a", "exit 0");
  Put("b", "echo ' it is unsigned '; exit 3");
  Put("c", "exit 0");
  Open();
  const absl::Status said = Ask();
  EXPECT_TRUE(absl::IsPermissionDenied(said)) << said;
  EXPECT_THAT(said.message(), AllOf(HasSubstr("/b says of r.example/app:1 with exit code 3: it is unsigned"),
                                    HasSubstr("policy")));
  EXPECT_THAT(Text(asked_), Not(HasSubstr("c -name")));
  EXPECT_EQ(Count(PolicyResult::kDenied), 1u);
}

TEST_F(ImagePolicyTest, WhatWasSaidHoldsForAMinute) {
  Put("a", "exit 1");
  Open();
  EXPECT_FALSE(Ask().ok());
  Put("a", "exit 0");
  clock_.now += ImagePolicy::kHoldsFor - 1s;
  EXPECT_FALSE(Ask().ok());
  EXPECT_TRUE(Ask("r.example/app:1", Manifest("{\"x\":1}")).ok()) << "another image";
  clock_.now += 1s;
  EXPECT_TRUE(Ask().ok());
  Put("a", "exit 1");
  EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(Count(PolicyResult::kAllowed), 2u);
}

TEST_F(ImagePolicyTest, WhatAnIndexNamesPassesWithIt) {
  const p2p::FetchedManifest child = Manifest("{\"child\":1}");
  const p2p::FetchedManifest index = Manifest(
      absl::StrCat(
          R"({"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",)",
          R"("digest":")", child.digest.ToString(), R"(","size":11}]})"),
      p2p::media_type::kOciIndex);
  Put("a", absl::StrCat("[ \"$4\" = ", index.digest.ToString(), " ]"));
  Open();
  EXPECT_FALSE(Ask("r.example/app@other", Manifest("{\"other\":1}")).ok());
  EXPECT_TRUE(Ask("r.example/app:1", index).ok());
  EXPECT_TRUE(Ask("r.example/app@child", child).ok());
  EXPECT_FALSE(policy_->Ask({"r.example", "elsewhere"}, "r.example/elsewhere@child", child).ok());
}

TEST_F(ImagePolicyTest, WhoDoesNotAnswerInTimeIsEndedWithAllThatItBegan) {
  const std::string child = temp_.path() + "/child";
  Put("a", absl::StrCat("sleep 1000 & echo $! >", child, "; sleep 1000"));
  Open(200ms);
  // It may not have come so far.
  do {
    const absl::Status said = Ask();
    ASSERT_TRUE(absl::IsDeadlineExceeded(said)) << said;
  } while (Text(child).empty());
  EXPECT_GE(Count(PolicyResult::kTimedOut), 1u);
  // A zombie is nobody's any more, until somebody reaps it.
  const std::string state = absl::StrCat("/proc/", std::stoi(Text(child)), "/stat");
  const auto has_ended = [&] { return Text(state).find(") S ") == std::string::npos; };
  for (int i = 0; i < 6000 && !has_ended(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(has_ended()) << Text(state);
  policy_->Stop();
  Open();
  Put("a", "exit 0");
  EXPECT_TRUE(Ask().ok());
}

TEST_F(ImagePolicyTest, WhatWasNotAnsweredInTimeIsAskedForAgain) {
  const std::string gate = temp_.path() + "/gate";
  Put("a", absl::StrCat("[ -e ", gate, " ] || sleep 1000"));
  Open(1s);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ask()));
  std::ofstream(gate) << "open";
  absl::Status said;
  for (int i = 0; i < 60 && !(said = Ask()).ok(); ++i) ASSERT_TRUE(absl::IsDeadlineExceeded(said)) << said;
  EXPECT_TRUE(said.ok());
}

TEST_F(ImagePolicyTest, WhatItSaysIsBounded) {
  Put("a", "head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2; exit 1");
  Open();
  EXPECT_LT(std::string(Ask().message()).size(), kOutputBytesMax + 1000);
}

TEST_F(ImagePolicyTest, WhoCannotBeRunLetsNothingPass) {
  Put("a", "exit 0");
  Open();
  std::filesystem::permissions(folder_ + "/a", std::filesystem::perms(0644));
  EXPECT_TRUE(absl::IsUnavailable(Ask())) << "not executable";
  std::filesystem::permissions(folder_ + "/a", std::filesystem::perms(0777));
  EXPECT_TRUE(absl::IsUnavailable(Ask())) << "everybody may change it";
  std::filesystem::permissions(folder_ + "/a", std::filesystem::perms(0755));
  std::filesystem::permissions(folder_, std::filesystem::perms(0777));
  EXPECT_TRUE(absl::IsUnavailable(Ask())) << "everybody may put others there";
  std::filesystem::permissions(folder_, std::filesystem::perms(0755));
  for (size_t i = 0; i < ImagePolicy::kProgramsMax; ++i) Put(absl::StrCat("b", i), "exit 0");
  EXPECT_TRUE(absl::IsUnavailable(Ask())) << "too many";
  std::filesystem::remove_all(folder_);
  EXPECT_TRUE(absl::IsUnavailable(Ask())) << "gone";
  EXPECT_EQ(Count(PolicyResult::kFailed), 5u);
}

TEST_F(ImagePolicyTest, AFolderThatCannotDecideIsAnErrorOfTheConfiguration) {
  const auto open = [&](const std::string& folder) {
    return std::string(ImagePolicy::Open({folder, 1s}, clock_, counters_).status().message());
  };
  EXPECT_THAT(open(folder_ + "/none"), AllOf(HasSubstr("none"), HasSubstr("make it")));
  std::ofstream(temp_.path() + "/file") << "x";
  EXPECT_THAT(open(temp_.path() + "/file"), HasSubstr("is no folder"));
  std::filesystem::permissions(folder_, std::filesystem::perms(0777));
  EXPECT_THAT(open(folder_), HasSubstr("chmod o-w"));
}

TEST_F(ImagePolicyTest, AnEmptyFolderLetsEverythingPass) {
  Open();
  EXPECT_TRUE(Ask().ok());
}

TEST_F(ImagePolicyTest, WhoAsksTheSameAtTheSameTimeSharesAnAnswer) {
  const std::string gate = temp_.path() + "/gate";
  Put("a", absl::StrCat("while [ ! -e ", gate, " ]; do sleep 0.01; done"));
  Open();
  std::promise<absl::Status> first, second;
  policy_->Ask(place_, "r.example/app:1", manifest_, [&](absl::Status said) { first.set_value(said); });
  policy_->Ask(place_, "r.example/app:1", manifest_, [&](absl::Status said) { second.set_value(said); });
  std::ofstream(gate) << "open";
  EXPECT_TRUE(first.get_future().get().ok());
  EXPECT_TRUE(second.get_future().get().ok());
  EXPECT_EQ(Count(PolicyResult::kAllowed), 1u);
}

TEST_F(ImagePolicyTest, BeyondABoundNobodyWaits) {
  Put("a", "sleep 1000");
  Open();
  std::atomic<size_t> cancelled{0};
  for (size_t i = 0; i < ImagePolicy::kWaitingMax; ++i) {
    policy_->Ask(place_, absl::StrCat("r.example/app:", i), manifest_,
                 [&](absl::Status said) { cancelled += absl::IsCancelled(said); });
  }
  EXPECT_TRUE(absl::IsResourceExhausted(Ask("r.example/app:more", manifest_)));
  policy_->Stop();
  EXPECT_EQ(cancelled, ImagePolicy::kWaitingMax);
  EXPECT_TRUE(absl::IsCancelled(Ask()));
}

}  // namespace
}  // namespace sluice
