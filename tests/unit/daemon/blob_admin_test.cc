#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "node/daemon/node_admin.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice {
namespace {

using index::SampleBlob;
using ::testing::HasSubstr;

// A store with one blob, which somebody has a lease of.
class BlobAdminTest : public index::StoreTest {
 protected:
  void SetUp() override {
    OpenStore();
    CommitAll(sample_);
    lease_ = LeaseOf(sample_);
  }
  bool IsThere() { return store_->Find(sample_.spec.digest) != nullptr; }
  // With a node that finds, at that one of its looks for what is used no more, that the lease is; 0: at none.
  absl::StatusOr<uint64_t> EvictWhereItIsLetGoOf(int at_look) {
    int looks = 0;
    BlobAdmin admin(
        *store_, verifier_,
        [&](const BlobKey&) {
          if (++looks == at_look) lease_.reset();
        },
        [](const BlobKey&) { return absl::OkStatus(); }, [this](const BlobKey&) { return holders_; });
    return admin.EvictBlob(sample_.spec.digest);
  }

  const SampleBlob sample_{1};
  index::NoVerifier verifier_;
  std::optional<Blob::Lease> lease_;
  std::string holders_;
};

TEST_F(BlobAdminTest, WhatIsUsedNoMoreIsEvicted) {
  const absl::StatusOr<uint64_t> freed = EvictWhereItIsLetGoOf(1);
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_GT(*freed, 0u);
  EXPECT_FALSE(IsThere());
}

TEST_F(BlobAdminTest, ACopyOfItsMountThatGoesAMomentLaterHoldsUpNothing) {
  const absl::StatusOr<uint64_t> freed = EvictWhereItIsLetGoOf(3);
  EXPECT_TRUE(freed.ok()) << freed.status();
  EXPECT_FALSE(IsThere());
}

TEST_F(BlobAdminTest, WhatStaysInUseStaysAndIsSaidByWhom) {
  holders_ = "a copy is in pid 7";
  const absl::StatusOr<uint64_t> freed = EvictWhereItIsLetGoOf(0);
  EXPECT_EQ(freed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(freed.status().message()),
              HasSubstr("unmount what uses it first: a copy is in pid 7"));
  EXPECT_TRUE(IsThere());
}

}  // namespace
}  // namespace sluice
