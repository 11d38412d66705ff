#include "node/blob_claim.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

using ::testing::EndsWith;

const BlobOrigin kOrigin{"registry.example:5000", "team/app"};

// SHA-256 of "blob": the vectors' own.
Digest BlobDigest() {
  return *Digest::Parse("sha256:fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8");
}

// Each line is "TEXT => TEXT" with what is read of it written again, or "TEXT => !WHAT" where it is refused.
// They are the protocol.
TEST(BlobClaim, TheVectorsHold) {
  std::ifstream file(SLUICE_BLOB_CLAIM_VECTORS);
  ASSERT_TRUE(file.is_open()) << SLUICE_BLOB_CLAIM_VECTORS;
  constexpr std::string_view kArrow = " => ";
  int taken = 0, refused = 0;
  for (std::string line; std::getline(file, line);) {
    const size_t arrow = line.rfind(kArrow);
    ASSERT_NE(arrow, std::string::npos) << line;
    const std::string text = line.substr(0, arrow), expected = line.substr(arrow + kArrow.size());
    const absl::StatusOr<BlobClaim> claim = ParseBlobClaim(text, BlobDigest(), kOrigin);
    if (expected.starts_with('!')) {
      ++refused;
      EXPECT_TRUE(absl::IsInvalidArgument(claim.status())) << line;
      EXPECT_THAT(std::string(claim.status().message()), EndsWith(": " + expected.substr(1))) << line;
      continue;
    }
    ++taken;
    ASSERT_TRUE(claim.ok()) << claim.status() << ": " << line;
    EXPECT_EQ(FormatBlobClaim(claim->spec, kOrigin, claim->access), expected);
    EXPECT_EQ(claim->spec.digest, BlobDigest());
    EXPECT_EQ(claim->spec.origins, std::vector<BlobOrigin>{kOrigin});
  }
  EXPECT_GE(taken, 8);
  EXPECT_GE(refused, 50);
}

TEST(BlobClaim, WhatIsWrittenIsWhatTheOriginSays) {
  const BlobOrigin other{"registry.example:5000", "team/other"};
  BlobSpec spec{.digest = BlobDigest(), .size = 1 << 20, .root = Digest(), .origins = {other, kOrigin}};
  const StoredForm stored{BlobDigest(), 400049, SeekTablePlace{{400000, 49}, BlobDigest()}};
  spec.stored.emplace(kOrigin, stored);
  const absl::StatusOr<BlobClaim> compressed =
      ParseBlobClaim(FormatBlobClaim(spec, kOrigin, BlobClaim::Access::kPublic), BlobDigest(), kOrigin);
  ASSERT_TRUE(compressed.ok()) << compressed.status();
  EXPECT_EQ(compressed->access, BlobClaim::Access::kPublic);
  EXPECT_EQ(compressed->spec.size, spec.size);
  EXPECT_EQ(compressed->spec.chunk_size, spec.chunk_size);
  EXPECT_EQ(compressed->spec.root, spec.root);
  ASSERT_NE(compressed->spec.StoredAt(kOrigin), nullptr);
  EXPECT_EQ(*compressed->spec.StoredAt(kOrigin), stored);
  const absl::StatusOr<BlobClaim> plain =
      ParseBlobClaim(FormatBlobClaim(spec, other, BlobClaim::Access::kNotPublic), BlobDigest(), other);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->access, BlobClaim::Access::kNotPublic);
  EXPECT_TRUE(plain->spec.stored.empty());
}

TEST(BlobClaim, TheLargestFitsItsBound) {
  BlobSpec spec{.digest = BlobDigest(),
                .size = kBlobSizeMax,
                .chunk_size = kChunkSizeMax,
                .root = Digest(),
                .origins = {}};
  const uint64_t table = 17 + uint64_t{12} * kChunksPerBlobMax;
  spec.stored.emplace(kOrigin,
                      StoredForm{Digest(), spec.size, SeekTablePlace{{spec.size - table, table}, Digest()}});
  const std::string text = FormatBlobClaim(spec, kOrigin, BlobClaim::Access::kPublic);
  EXPECT_LE(text.size(), kBlobClaimBytesMax);
  EXPECT_TRUE(ParseBlobClaim(text, BlobDigest(), kOrigin).ok());
}

}  // namespace
}  // namespace sluice
