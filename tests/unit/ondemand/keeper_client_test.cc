#include "ondemand/keeper_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "tests/unit/ondemand/fake_descriptor_store.h"

namespace sluice::ondemand {
namespace {

constexpr char kJournal[] = "sluice-journal";

class DoorThatWaitsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto journal = keeper::Journal::Create(8, keeper::DoorKind::kFuse);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
  }

  std::unique_ptr<keeper::Journal> journal_;
  FakeDescriptorStore store_;
};

TEST_F(DoorThatWaitsTest, IsTheOneWithMounts) {
  EXPECT_EQ(*DoorThatWaits(store_), std::nullopt);
  store_.Give(kJournal, journal_->fd());
  EXPECT_EQ(*DoorThatWaits(store_), std::nullopt);
  journal_->layout().mounts[5].in_use = 1;
  EXPECT_EQ(*DoorThatWaits(store_), keeper::DoorKind::kFuse);
}

// What can't be read may have mounts: to take it for none would let them go.
TEST_F(DoorThatWaitsTest, JournalOfAnotherVersionIsNotNone) {
  store_.Give(kJournal, journal_->fd());
  ++journal_->layout().version;
  EXPECT_TRUE(absl::IsFailedPrecondition(DoorThatWaits(store_).status())) << DoorThatWaits(store_).status();
}

TEST_F(DoorThatWaitsTest, JournalOfAnotherSizeIsNotNone) {
  const keeper::Descriptor other(memfd_create("other", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(other.get(), 4096), 0);
  store_.Give(kJournal, other.get());
  EXPECT_TRUE(absl::IsFailedPrecondition(DoorThatWaits(store_).status()));
}

}  // namespace
}  // namespace sluice::ondemand
