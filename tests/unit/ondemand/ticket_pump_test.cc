#include "ondemand/ticket_pump.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>

namespace sluice::ondemand {
namespace {

using keeper::Journal;
using keeper::SlotState;

// Plays the keeper.
class TicketPumpTest : public testing::Test {
 protected:
  static constexpr int kWaitMs = 20'000;

  void SetUp() override {
    auto journal = Journal::Create(64);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
    completions_.reset(eventfd(0, EFD_CLOEXEC));
    const std::string name(keeper::kBlobNameLength, 'a');
    std::copy(name.begin(), name.end(), journal_->layout().blobs[7].name);
  }

  std::unique_ptr<TicketPump> StartPump() {
    return std::make_unique<TicketPump>(journal_, completions_.get(), [this](ReadTicket ticket) {
      const std::lock_guard lock(mutex_);
      tickets_.push_back(std::move(ticket));
      arrived_.notify_all();
    });
  }

  uint64_t Submit(uint32_t index) {
    journal_->slots()[index].read = {.blob = 7, .offset = index * 4096u, .length = 4096, .deadline_ns = 123};
    return journal_->Submit(index);
  }

  bool WaitForTickets(size_t count) {
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(lock, std::chrono::milliseconds(kWaitMs),
                             [&] { return tickets_.size() >= count; });
  }

  ReadTicket Next() {
    const std::lock_guard lock(mutex_);
    ReadTicket ticket = std::move(tickets_.front());
    tickets_.pop_front();
    return ticket;
  }

  bool KeeperIsWoken() {
    pollfd wait{completions_.get(), POLLIN, 0};
    return poll(&wait, 1, kWaitMs) == 1;
  }

  std::shared_ptr<Journal> journal_;
  keeper::Descriptor completions_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<ReadTicket> tickets_;
};

TEST_F(TicketPumpTest, HandsOutWhatIsSubmittedAndTellsTheKeeperWhenItIsDone) {
  auto pump = StartPump();
  Submit(3);
  ASSERT_TRUE(WaitForTickets(1));
  ReadTicket ticket = Next();
  EXPECT_EQ(ticket.key().FileName(), std::string(64, 'a'));
  EXPECT_EQ(ticket.range(), (ByteRange{3 * 4096, 4096}));
  EXPECT_EQ(ticket.deadline().time_since_epoch().count(), 123);
  EXPECT_EQ(journal_->slots()[3].word().state(), SlotState::kTaken);
  std::move(ticket).Complete(absl::OkStatus());
  EXPECT_TRUE(KeeperIsWoken());
  EXPECT_EQ(journal_->slots()[3].word().state(), SlotState::kDone);
  EXPECT_EQ(journal_->slots()[3].word().verdict(), 0);
  std::vector<uint32_t> finished;
  keeper::TakeBits(journal_->layout().finished, [&](uint32_t index) { finished.push_back(index); });
  EXPECT_EQ(finished, std::vector<uint32_t>{3});
}

TEST_F(TicketPumpTest, FailedAndDroppedTicketsAreErrors) {
  auto pump = StartPump();
  Submit(0);
  Submit(1);
  ASSERT_TRUE(WaitForTickets(2));
  { const ReadTicket dropped = Next(); }
  Next().Complete(absl::DataLossError("bad chunk"));
  for (const uint32_t index : {0, 1}) {
    EXPECT_EQ(journal_->slots()[index].word().state(), SlotState::kDone);
    EXPECT_EQ(journal_->slots()[index].word().verdict(), EIO);
  }
}

TEST_F(TicketPumpTest, WhatIsCancelledGoesToTheNextDaemon) {
  auto pump = StartPump();
  Submit(4);
  ASSERT_TRUE(WaitForTickets(1));
  Next().Complete(absl::CancelledError("the node is shutting down"));
  EXPECT_EQ(journal_->slots()[4].word().state(), SlotState::kTaken);
  pump->Stop();
  journal_->Abandon(4);
  pump = StartPump();
  EXPECT_TRUE(WaitForTickets(1));
}

TEST_F(TicketPumpTest, ManyAreOutAtOnceAndMayBeCompletedInAnyOrder) {
  auto pump = StartPump();
  for (uint32_t i = 0; i < 64; ++i) Submit(i);
  ASSERT_TRUE(WaitForTickets(64));
  while (!tickets_.empty()) {
    std::move(tickets_.back()).Complete(absl::OkStatus());
    tickets_.pop_back();
  }
  for (const keeper::Slot& slot : journal_->slots()) EXPECT_EQ(slot.word().state(), SlotState::kDone);
}

TEST_F(TicketPumpTest, TakesWhatAPredecessorLeftWithoutItsHint) {
  Submit(9);
  keeper::TakeBits(journal_->layout().submitted, [](uint32_t) {});
  auto pump = StartPump();
  EXPECT_TRUE(WaitForTickets(1));
}

TEST_F(TicketPumpTest, TicketOutlivesThePumpAndTheLateOneLetsGo) {
  auto pump = StartPump();
  Submit(0);
  ASSERT_TRUE(WaitForTickets(1));
  ASSERT_EQ(journal_->slots()[0].Expire(), SlotState::kTaken);
  pump->Stop();
  Next().Complete(absl::OkStatus());
  EXPECT_EQ(journal_->slots()[0].word().state(), SlotState::kReleased);
  EXPECT_TRUE(KeeperIsWoken());
}

TEST_F(TicketPumpTest, TakesNothingAfterStop) {
  auto pump = StartPump();
  pump->Stop();
  Submit(0);
  EXPECT_EQ(journal_->slots()[0].word().state(), SlotState::kPending);
}

}  // namespace
}  // namespace sluice::ondemand
