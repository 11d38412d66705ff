// What is here before it can be proven, and what becomes of it when it can.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/unit/index/store_fixture.h"

namespace sluice::index {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class UnprovenTest : public StoreTest {
 protected:
  UnprovenTest() { sample_.spec.root = Sha256Of(sample_.Chunk(0)); }

  void Open() {
    store_.reset();
    DiskStoreOptions options = Options();
    options.threads = Threads::kNone;
    options.verify_chunk = [this](const Blob& blob, ChunkIndex index,
                                  std::span<const std::byte> bytes) -> absl::StatusOr<Evidence> {
      ++verified_;
      if (!recipe_is_here_) return Evidence::kUnverified;
      return SampleVerifier(sample_).Verify(blob, index, bytes);
    };
    options.on_wrong_chunk = [this](const Blob& blob, ChunkIndex index,
                                    std::span<const std::byte> bytes) -> Task {
      EXPECT_TRUE(blob.presence().IsPresent(index)) << "its sender is noted before it can be fetched anew";
      EXPECT_EQ(bytes.size(), wrong_.size());
      EXPECT_EQ(std::memcmp(bytes.data(), wrong_.data(), bytes.size()), 0);
      events_.push_back("wrong " + std::to_string(index.value()));
      return [this, &blob, index] {
        EXPECT_FALSE(blob.presence().IsPresent(index));
        events_.push_back("gone " + std::to_string(index.value()));
      };
    };
    options.had_again = [this](const Blob&) {
      events_.push_back("whole");
      return had_again_;
    };
    absl::StatusOr<std::unique_ptr<DiskStore>> store = DiskStore::OpenStore(std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Work() {
    while (store_->RunBatch() || store_->RunHash() || store_->RunNotice()) {
    }
  }
  void CommitWrong(uint32_t index) {
    ASSERT_TRUE(store_->Commit(*OpenBlob(sample_), ChunkIndex(index), wrong_, Evidence::kUnverified).ok());
  }
  void RecipeComes() {
    recipe_is_here_ = true;
    ASSERT_TRUE(store_->PutRecipe(sample_.spec.digest, "a recipe").ok());
  }

  SampleBlob sample_{1};
  const std::vector<std::byte> wrong_{kChunkSizeMin, std::byte{0x55}};
  bool recipe_is_here_ = false;
  bool had_again_ = false;
  int verified_ = 0;
  std::vector<std::string> events_;
};

TEST_F(UnprovenTest, WhenTheRecipeComesWhatIsRightIsProvenAndWhatIsWrongIsDropped) {
  Open();
  for (const uint32_t index : {0u, 2u, 4u}) ASSERT_TRUE(CommitChunk(sample_, index).ok());
  CommitWrong(3);
  Work();
  const std::shared_ptr<Blob> blob = OpenBlob(sample_);
  EXPECT_EQ(blob->unverified_count(), 4u);
  EXPECT_EQ(verified_, 0) << "nothing can be proven yet";
  EXPECT_TRUE(store_->ProvenChunks(blob->key())->empty());
  RecipeComes();
  Work();
  EXPECT_EQ(blob->unverified_count(), 0u);
  EXPECT_EQ(*store_->ProvenChunks(blob->key()), blob->presence().Snapshot());
  EXPECT_TRUE(store_->AllProven(*blob, {ChunkIndex(2), 1}));
  EXPECT_FALSE(IsPresent(sample_, 3));
  EXPECT_FALSE(IsPresent(sample_, 1));
  EXPECT_THAT(events_, ElementsAre("wrong 3", "gone 3"));
  ExpectTrue(sample_);
  // It is kept so.
  Open();
  EXPECT_EQ(OpenBlob(sample_)->unverified_count(), 0u);
  EXPECT_FALSE(IsPresent(sample_, 3));
  EXPECT_TRUE(IsPresent(sample_, 2));
}

TEST_F(UnprovenTest, ARootThatIsLearntLaterLeadsToTheSame) {
  const std::optional<Digest> root = std::exchange(sample_.spec.root, std::nullopt);
  Open();
  ASSERT_TRUE(CommitChunk(sample_, 0).ok());
  CommitWrong(3);
  recipe_is_here_ = true;
  Work();
  EXPECT_EQ(OpenBlob(sample_)->unverified_count(), 2u) << "no root says what they should be";
  sample_.spec.root = root;
  const std::shared_ptr<Blob> blob = OpenBlob(sample_);
  Work();
  EXPECT_EQ(blob->unverified_count(), 0u);
  EXPECT_FALSE(IsPresent(sample_, 3));
}

TEST_F(UnprovenTest, WithoutARecipeNoMoreThanOneChunkIsRead) {
  Open();
  for (const uint32_t index : {0u, 2u, 4u}) ASSERT_TRUE(CommitChunk(sample_, index).ok());
  Work();
  store_->CheckUnproven();
  Work();
  EXPECT_EQ(verified_, 1);
  EXPECT_EQ(OpenBlob(sample_)->unverified_count(), 3u);
}

TEST_F(UnprovenTest, WhatARestartLeftUnprovenIsCheckedWhenItCanBe) {
  Open();
  ASSERT_TRUE(CommitChunk(sample_, 0).ok());
  CommitWrong(3);
  Work();
  recipe_is_here_ = true;
  Open();
  Work();
  EXPECT_EQ(verified_, 0);
  store_->CheckUnproven();
  Work();
  EXPECT_THAT(events_, ElementsAre("wrong 3", "gone 3"));
  EXPECT_EQ(OpenBlob(sample_)->unverified_count(), 0u);
}

TEST_F(UnprovenTest, WhatWasProvenAndIsSpoiltIsTheDisksFault) {
  Open();
  CommitAll(sample_, Evidence::kVerified);
  Work();
  Overwrite(sample_, 2, "spoilt");
  SampleVerifier verifier(sample_);
  ASSERT_TRUE(store_->Verify(sample_.spec.digest, verifier).ok());
  EXPECT_THAT(events_, IsEmpty()) << "nobody is to be blamed";
  EXPECT_FALSE(IsPresent(sample_, 2));
}

// Refused at once, it would be lost to readers though others have it right.
TEST_F(UnprovenTest, AWholeBlobThatIsWrongIsHadOnceMoreIfOthersMayHaveItRightAndThenRefused) {
  sample_.spec.root.reset();
  had_again_ = true;
  Open();
  const auto commit = [&](bool right) {
    for (uint32_t i = 0; i < sample_.chunk_count(); ++i) {
      if (i == 3 && !right) {
        CommitWrong(3);
      } else {
        ASSERT_TRUE(CommitChunk(sample_, i).ok());
      }
    }
  };
  commit(false);
  Work();
  EXPECT_THAT(events_, ElementsAre("whole"));
  const std::shared_ptr<Blob> blob = OpenBlob(sample_);
  EXPECT_FALSE(blob->refused());
  EXPECT_EQ(blob->presence().present_count(), 0u);
  commit(false);
  Work();
  EXPECT_TRUE(blob->refused()) << "it is wrong again";
  EXPECT_THAT(events_, ElementsAre("whole"));
}

TEST_F(UnprovenTest, AWholeBlobThatIsWrongAndMountedIsRefused) {
  sample_.spec.root.reset();
  had_again_ = true;
  Open();
  const std::shared_ptr<Blob> blob = OpenBlob(sample_);
  const Blob::Lease mount(blob, Blob::Lease::OfFile::kYes);
  for (uint32_t i = 0; i < sample_.chunk_count(); ++i) {
    if (i == 3) continue;
    ASSERT_TRUE(CommitChunk(sample_, i).ok());
  }
  CommitWrong(3);
  Work();
  EXPECT_TRUE(blob->refused()) << "readers may have seen it";
  EXPECT_THAT(events_, IsEmpty());
}

}  // namespace
}  // namespace sluice::index
