#include "ondemand/keeper/journal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "ondemand/keeper/process.h"

namespace sluice::keeper {
namespace {

std::unique_ptr<Journal> MakeJournal(uint32_t slots = 64) {
  auto journal = Journal::Create(slots);
  EXPECT_TRUE(journal.ok());
  return std::move(journal.value());
}

TEST(JournalTest, SlotGoesItsWayFromPublicationToFree) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[3];
  EXPECT_EQ(slot.word().state(), SlotState::kFree);
  EXPECT_EQ(slot.Take(), 0u) << "nothing to take yet";
  const uint64_t ticket = journal->Submit(3);
  EXPECT_EQ(slot.word().state(), SlotState::kPending);
  EXPECT_EQ(slot.Take(), ticket);
  EXPECT_EQ(slot.Take(), 0u) << "taken twice";
  EXPECT_TRUE(slot.Finish(ticket, 0));
  EXPECT_EQ(slot.word().state(), SlotState::kDone);
  EXPECT_EQ(slot.word().verdict(), 0);
  EXPECT_FALSE(slot.Finish(ticket, EIO)) << "finished twice";
  EXPECT_EQ(slot.word().verdict(), 0);
  slot.Free();
  EXPECT_EQ(slot.word().state(), SlotState::kFree);
}

TEST(JournalTest, VerdictIsKept) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t ticket = journal->Submit(0);
  ASSERT_EQ(slot.Take(), ticket);
  EXPECT_TRUE(slot.Finish(ticket, EIO));
  EXPECT_EQ(slot.word().verdict(), EIO);
}

TEST(JournalTest, PendingSlotIsFreeAfterItsDeadline) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  journal->Submit(0);
  EXPECT_EQ(slot.Expire(), SlotState::kPending);
  EXPECT_EQ(slot.word().state(), SlotState::kReleased) << "nobody has answered it yet";
  EXPECT_EQ(slot.Take(), 0u) << "an expired read must not be worked on";
}

TEST(JournalTest, TakenSlotIsHeldAfterItsDeadlineUntilTheDaemonLetsGo) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t ticket = journal->Submit(0);
  ASSERT_EQ(slot.Take(), ticket);
  EXPECT_EQ(slot.Expire(), SlotState::kTaken);
  EXPECT_EQ(slot.word().state(), SlotState::kExpired);
  EXPECT_EQ(slot.Expire(), SlotState::kExpired) << "refused once";
  EXPECT_FALSE(slot.Finish(ticket, 0));
  EXPECT_EQ(slot.word().state(), SlotState::kReleased);
}

TEST(JournalTest, FinishedSlotDoesNotExpire) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t ticket = journal->Submit(0);
  ASSERT_EQ(slot.Take(), ticket);
  ASSERT_TRUE(slot.Finish(ticket, 0));
  EXPECT_EQ(slot.Expire(), SlotState::kDone);
  EXPECT_EQ(slot.word().state(), SlotState::kDone);
}

TEST(JournalTest, LateCompletionDoesNotTouchTheNextReadInTheSameSlot) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t late = journal->Submit(0);
  ASSERT_EQ(slot.Take(), late);
  slot.Expire();
  slot.Free();
  const uint64_t next = journal->Submit(0);
  EXPECT_NE(next, late);
  EXPECT_FALSE(slot.Finish(late, 0));
  EXPECT_EQ(slot.word().state(), SlotState::kPending);
  ASSERT_EQ(slot.Take(), next);
  EXPECT_FALSE(slot.Finish(late, 0));
  EXPECT_EQ(slot.word().state(), SlotState::kTaken);
  slot.Expire();
  EXPECT_FALSE(slot.Finish(late, 0));
  EXPECT_EQ(slot.word().state(), SlotState::kExpired) << "let go of by the wrong one";
}

TEST(JournalTest, DeadDaemonsSlotsWaitForTheNextAndItsOldTicketIsWorthless) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t old_ticket = journal->Submit(0);
  ASSERT_EQ(slot.Take(), old_ticket);
  journal->Abandon(0);
  EXPECT_EQ(slot.word().state(), SlotState::kPending);
  const uint64_t ticket = slot.Take();
  EXPECT_NE(ticket, old_ticket);
  EXPECT_FALSE(slot.Finish(old_ticket, 0));
  EXPECT_TRUE(slot.Finish(ticket, 0));
}

TEST(JournalTest, DeadDaemonsExpiredSlotsAreReleased) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  const uint64_t ticket = journal->Submit(0);
  ASSERT_EQ(slot.Take(), ticket);
  slot.Expire();
  journal->Abandon(0);
  EXPECT_EQ(slot.word().state(), SlotState::kReleased);
}

TEST(JournalTest, OneOfManyTakersGetsTheSlot) {
  auto journal = MakeJournal();
  for (int round = 0; round < 200; ++round) {
    journal->Submit(0);
    std::atomic<int> taken{0};
    std::vector<std::thread> takers;
    for (int i = 0; i < 3; ++i) {
      takers.emplace_back([&] { taken += journal->slots()[0].Take() != 0; });
    }
    for (std::thread& taker : takers) taker.join();
    ASSERT_EQ(taken, 1);
    journal->slots()[0].Free();
  }
}

// The reader is answered exactly once, whoever comes first.
TEST(JournalTest, DeadlineAndCompletionNeverBothWin) {
  auto journal = MakeJournal();
  Slot& slot = journal->slots()[0];
  for (int round = 0; round < 500; ++round) {
    const uint64_t ticket = journal->Submit(0);
    ASSERT_EQ(slot.Take(), ticket);
    bool finished = false;
    std::thread daemon([&] { finished = slot.Finish(ticket, 0); });
    const bool expired = slot.Expire() == SlotState::kTaken;
    daemon.join();
    ASSERT_NE(finished, expired);
    ASSERT_EQ(slot.word().state(), finished ? SlotState::kDone : SlotState::kReleased);
    slot.Free();
  }
}

TEST(JournalTest, BitsAreTakenOnce) {
  auto journal = MakeJournal(200);
  journal->Submit(0);
  journal->Submit(63);
  journal->Submit(199);
  std::vector<uint32_t> seen;
  TakeBits(journal->layout().submitted, [&](uint32_t index) { seen.push_back(index); });
  EXPECT_EQ(seen, (std::vector<uint32_t>{0, 63, 199}));
  seen.clear();
  TakeBits(journal->layout().submitted, [&](uint32_t index) { seen.push_back(index); });
  EXPECT_TRUE(seen.empty());
}

TEST(JournalTest, OtherProcessSeesTheSameMemory) {
  auto journal = MakeJournal();
  auto opened = Journal::Open(journal->fd());
  ASSERT_TRUE(opened.ok());
  const uint64_t ticket = journal->Submit(5);
  EXPECT_EQ(opened.value()->slots()[5].Take(), ticket);
  EXPECT_EQ(journal->slots()[5].word().state(), SlotState::kTaken);
}

TEST(JournalTest, CannotBeMadeShorterUnderUs) {
  auto journal = MakeJournal();
  EXPECT_EQ(ftruncate(journal->fd(), 4096), -1);
}

// Who looks for a blob looks at all records, and memory that is read is memory that is taken.
TEST(JournalTest, BitsOfBlobsThatAreNotThereTakeNoMemory) {
  auto journal = MakeJournal();
  uint32_t in_use = 0;
  for (const BlobRecord& record : journal->layout().blobs) in_use += record.in_use.load();
  for (const MountRecord& record : journal->layout().mounts) in_use += record.in_use;
  EXPECT_EQ(in_use, 0u);
  struct stat status {};
  ASSERT_EQ(fstat(journal->fd(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 16 << 20);
  EXPECT_GT(status.st_size, static_cast<off_t>(sizeof(PresenceBits)) * kBlobsMax);
}

TEST(JournalTest, OnlyOneKeeperWorksWithIt) {
  auto journal = MakeJournal();
  auto theirs = Journal::Open(journal->fd());
  ASSERT_TRUE(theirs.ok());
  {
    const auto lock = LockJournal(journal->fd());
    ASSERT_TRUE(lock.ok());
    auto second = LockJournal(theirs.value()->fd());
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code, EALREADY);
  }
  EXPECT_TRUE(LockJournal(theirs.value()->fd()).ok());
  EXPECT_FALSE(LockJournal(-1).ok());
}

TEST(JournalTest, OpenRejectsWhatIsNoJournal) {
  const Descriptor unsealed(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealed.get(), sizeof(JournalLayout)), 0);
  EXPECT_FALSE(Journal::Open(unsealed.get()).ok());

  const Descriptor zeros(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(zeros.get(), sizeof(JournalLayout)), 0);
  ASSERT_EQ(fcntl(zeros.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_FALSE(Journal::Open(zeros.get()).ok());

  auto journal = MakeJournal();
  journal->layout().version = kJournalVersion + 1;
  EXPECT_FALSE(Journal::Open(journal->fd()).ok());
  journal->layout().version = kJournalVersion;
  journal->layout().slot_count = kSlotsMax + 1;
  EXPECT_FALSE(Journal::Open(journal->fd()).ok());
  EXPECT_FALSE(Journal::Open(-1).ok());
}

}  // namespace
}  // namespace sluice::keeper
