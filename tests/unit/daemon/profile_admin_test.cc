#include "node/daemon/profile_admin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/node/fakes.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kReference[] = "registry.example/app:1";

Digest NameOf(uint8_t first) {
  std::array<uint8_t, Digest::kBytes> bytes{first};
  return Digest(bytes);
}

// Knows one image, of two blobs of 4 and 2 chunks.
class OneImage final : public ImagePreparer {
 public:
  absl::StatusOr<std::string> Check(const std::string& reference) const override { return reference; }
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference, const p2p::Platform&) override {
    if (reference != "app:1") return absl::NotFoundError(reference + " is nowhere");
    p2p::LazyImage image;
    image.blobs = {Spec(1, 4 * kChunkSizeDefault - 100), Spec(2, 2 * kChunkSizeDefault)};
    return ResolvedImage{*p2p::ImageReference::Parse(kReference), NameOf(9), std::move(image)};
  }
  absl::StatusOr<PreparedImage> Prepare(const ResolvedImage&, const PrepareBounds&) override {
    ADD_FAILURE() << "nothing is to be fetched";
    return absl::UnavailableError("no");
  }
  absl::StatusOr<BlobSpec> FindBlob(const std::string&, uint64_t) override {
    return absl::UnimplementedError("no blob is asked for");
  }
  absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec&, const PrepareBounds&) override {
    return absl::UnimplementedError("no blob is asked for");
  }

 private:
  static BlobSpec Spec(uint8_t name, uint64_t size) {
    return {.digest = NameOf(name), .size = size, .root = {}, .origins = {}};
  }
};

class ProfileAdminTest : public ::testing::Test {
 protected:
  ProfileAdminTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                absl::StrCat("admin-", testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
  }
  ~ProfileAdminTest() override { std::filesystem::remove_all(folder_); }

  static p2p::KeptProfile Profile(std::vector<ProfileSpan> spans, uint32_t runs = 3) {
    return {NameOf(9), p2p::ImageAccess::kPublic, {runs, std::move(spans), {}}, {{"node-7:1234", 5}}};
  }
  absl::StatusOr<api::ProfileReport> Get(const std::string& image) {
    return admin_.GetProfile(image, clock_.now);
  }
  // What is said of a document that is refused; what was known must stay.
  std::string Refusal(const std::string& document) {
    const p2p::KeptProfile before = Profile({{0, {ChunkIndex(3), 1}, 7, 255}});
    EXPECT_TRUE(profiles_.Replace(before).ok());
    const absl::StatusOr<api::ProfileReport> imported = admin_.ImportProfile("app:1", document);
    EXPECT_TRUE(absl::IsInvalidArgument(imported.status())) << imported.status();
    EXPECT_EQ(profiles_.Get(NameOf(9))->profile, before.profile);
    return std::string(imported.status().message());
  }

  const std::filesystem::path folder_;
  fakes::FakeClock clock_;
  OneImage image_;
  ProfileStore profiles_{folder_.string()};
  std::vector<Digest> awaited_;
  bool is_public_ = true;
  ProfileAdmin admin_{{image_, profiles_,
                       [this](const Digest& manifest, Instant) { awaited_.push_back(manifest); },
                       [this](const std::string& reference, const Digest&) {
                         return reference == kReference && is_public_;
                       }}};
};

TEST_F(ProfileAdminTest, WhatIsKnownIsShownWithTheImagesBlobs) {
  ASSERT_TRUE(profiles_.Replace(Profile({{1, {ChunkIndex(0), 1}, 5, 200}})).ok());
  const absl::StatusOr<api::ProfileReport> report = Get("app:1");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->reference, kReference);
  EXPECT_EQ(report->manifest, NameOf(9));
  EXPECT_EQ(report->profile.runs, 3u);
  EXPECT_TRUE(report->is_public);
  EXPECT_THAT(report->blobs, SizeIs(2));
  EXPECT_THAT(awaited_, ElementsAre(NameOf(9)));  // a start that has just ended is among them
}

TEST_F(ProfileAdminTest, ByTheManifestsDigestNobodyIsAskedForTheImage) {
  ASSERT_TRUE(profiles_.Replace(Profile({{1, {ChunkIndex(0), 1}, 5, 200}})).ok());
  const absl::StatusOr<api::ProfileReport> report = Get(NameOf(9).ToString());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->reference, "");
  EXPECT_THAT(report->blobs, SizeIs(0));
  EXPECT_THAT(report->profile.spans, SizeIs(1));
}

TEST_F(ProfileAdminTest, WhoHasNoneIsToldHowToMakeOne) {
  const absl::Status none = Get("app:1").status();
  EXPECT_TRUE(absl::IsNotFound(none));
  EXPECT_THAT(std::string(none.message()), HasSubstr("sluice image profile record"));
  EXPECT_TRUE(absl::IsNotFound(Get(NameOf(8).ToString()).status()));
  EXPECT_THAT(std::string(Get("other:1").status().message()), HasSubstr("nowhere"));
}

TEST_F(ProfileAdminTest, ADocumentNamesNoNodeAndIsTakenByAnother) {
  const std::vector<ProfileSpan> spans = {{1, {ChunkIndex(0), 2}, 5, 200}, {0, {ChunkIndex(3), 1}, 9, 255}};
  ASSERT_TRUE(profiles_.Replace(Profile(spans)).ok());
  const std::string document = Get("app:1")->document;
  EXPECT_THAT(document, Not(HasSubstr("node-7")));
  ASSERT_TRUE(profiles_.Replace(Profile({{0, {ChunkIndex(0), 1}, 1, 255}}, 9)).ok());
  const absl::StatusOr<api::ProfileReport> imported = admin_.ImportProfile("app:1", document);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->profile.spans, spans);
  EXPECT_EQ(profiles_.Get(NameOf(9))->profile.spans, spans);  // though what was known is of more starts
}

TEST_F(ProfileAdminTest, WhoMayHaveAnImageIsNotTheDocumentsToSay) {
  ASSERT_TRUE(profiles_.Replace(Profile({{1, {ChunkIndex(0), 2}, 5, 200}})).ok());
  const std::string document = Get("app:1")->document;
  is_public_ = false;
  ASSERT_TRUE(admin_.ImportProfile("app:1", document).ok());
  EXPECT_EQ(profiles_.Get(NameOf(9))->access, p2p::ImageAccess::kPrivate);
}

TEST_F(ProfileAdminTest, WhatIsNoProfileOfTheImageIsRefused) {
  EXPECT_THAT(Refusal("{"), HasSubstr("malformed"));
  EXPECT_THAT(Refusal(""), HasSubstr("malformed"));
  EXPECT_THAT(Refusal(std::string(p2p::kProfileBytesMax + 1, ' ')), HasSubstr("65537 bytes; at most 65536"));
  p2p::KeptProfile other = Profile({});
  other.manifest = NameOf(8);
  EXPECT_THAT(Refusal(p2p::FormatKept(other)), HasSubstr(NameOf(8).ToString()));
  EXPECT_THAT(Refusal(p2p::FormatKept(Profile({{2, {ChunkIndex(0), 1}, 5, 200}}))),
              HasSubstr("blob 2 (from 0), and the image has 2"));
  EXPECT_THAT(Refusal(p2p::FormatKept(Profile({{0, {ChunkIndex(3), 2}, 5, 200}}))),
              HasSubstr("chunk 4 of blob 0 (from 0), which has 4"));
}

}  // namespace
}  // namespace sluice
