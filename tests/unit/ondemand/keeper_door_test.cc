#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "ondemand/keeper/door.h"

namespace sluice::keeper {
namespace {

constexpr std::chrono::seconds kWait{20};

// A door whose kernel asks for what it is told, and that notes what the journal said at each step.
class NotingDoor final : public Door {
 public:
  struct Step {
    uint64_t request = 0;
    int verdict = 0;
    SlotState state = SlotState::kFree;
    friend bool operator==(const Step&, const Step&) = default;
  };

  NotingDoor(Journal& journal, int requests, int completions)
      : Door(journal, {requests, -1, -1}, completions), requests_(requests) {}
  ~NotingDoor() override { Stop(); }

  Outcome Guard(uint32_t) override { return {}; }
  void Forget(uint32_t) override {}
  void Ask(uint64_t request) { eventfd_write(requests_, request); }
  void GiveUpAll() {
    CallOnThread([this] { ForEachHeld([this](uint32_t index, const SlotRead&) { GiveUp(index, EINTR); }); });
  }

  // Whether the first bytes of the blob in entry 0, in chunks of 2^18 bytes, are passed.
  bool IsHit(uint64_t length) const { return AllPresent(0, 18, 0, length); }

  // The reader of what is asked for from now on; 0: the kernel does not say.
  void SetReader(int pid) { pid_ = pid; }
  // Reads that were refused without a wait.
  int refused() const { return refused_; }

  std::vector<Step> answers() {
    const std::lock_guard lock(mutex_);
    return answers_;
  }
  std::vector<Step> let_go() {
    const std::lock_guard lock(mutex_);
    return let_go_;
  }

 private:
  bool ReadingCanBlock() const override { return false; }
  void ReadRequests() override {
    eventfd_t request = 0;
    if (eventfd_read(requests_, &request) != 0 || !HasFreeSlot()) return;
    SlotRead read;
    read.request = request;
    read.length = 4096;
    read.pid = pid_;
    if (FailsAgain(read)) {
      refused_.fetch_add(1);
    } else {
      Publish(read);
    }
  }
  Answered Answer(uint32_t index, const SlotRead& read, int verdict) override {
    const std::lock_guard lock(mutex_);
    answers_.push_back({read.request, verdict, journal_.slots()[index].word().state()});
    return Answered::kNow;
  }
  void LetGo(const SlotRead& read) override {
    const std::lock_guard lock(mutex_);
    SlotState named = SlotState::kFree;
    for (const Slot& slot : journal_.slots()) {
      if (slot.read.request == read.request && slot.word().state() != SlotState::kFree)
        named = slot.word().state();
    }
    let_go_.push_back({read.request, 0, named});
  }
  void AdoptOthers() override {}
  void RefuseQueued() override {}

  const int requests_;
  std::atomic<int> pid_{0};
  std::atomic<int> refused_{0};
  std::mutex mutex_;  // guards what follows
  std::vector<Step> answers_;
  std::vector<Step> let_go_;
};

class KeeperDoorTest : public testing::Test {
 protected:
  void SetUp() override {
    auto journal = Journal::Create(8);
    ASSERT_TRUE(journal.ok());
    journal_ = std::move(journal.value());
    SetDeadline(kWait);
    requests_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    completions_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    MakeDoor();
  }
  void MakeDoor() {
    door_.reset();
    door_ = std::make_unique<NotingDoor>(*journal_, requests_.get(), completions_.get());
  }
  void SetDeadline(std::chrono::nanoseconds deadline) {
    journal_->layout().read_deadline_ns.store(deadline.count());
  }
  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto give_up = std::chrono::steady_clock::now() + kWait;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      usleep(1000);
    }
    return true;
  }

  std::unique_ptr<Journal> journal_;
  Descriptor requests_;
  Descriptor completions_;
  std::unique_ptr<NotingDoor> door_;
};

// A keeper may be killed before any of its steps: what is not answered must be in the journal, or nobody
// would answer it.
TEST_F(KeeperDoorTest, ReadThatExpiresIsInTheJournalUntilItIsAnswered) {
  SetDeadline(std::chrono::milliseconds(1));
  ASSERT_TRUE(door_->Start().ok());
  door_->Ask(7);
  ASSERT_TRUE(Eventually([&] { return !door_->let_go().empty(); }));
  ASSERT_EQ(door_->answers().size(), 1u);
  EXPECT_EQ(door_->answers().front().verdict, EIO);
  EXPECT_NE(door_->answers().front().state, SlotState::kFree);
  EXPECT_EQ(door_->let_go().front().state, SlotState::kFree) << "its number may become another's";
}

// The kernel asks again, page by page, for what it was refused: each time would be another deadline.
TEST_F(KeeperDoorTest, WhatHasJustFailedIsRefusedAtOnceAlsoWhereTheKernelNamesNoReader) {
  SetDeadline(std::chrono::milliseconds(500));
  journal_->layout().blobs[0].size = 1 << 20;
  journal_->layout().blobs[0].chunk_shift = 18;
  ASSERT_TRUE(door_->Start().ok());
  for (const int reader : {0, 4711}) {
    const int refused = door_->refused();
    const size_t answered = door_->answers().size();
    door_->SetReader(reader);
    door_->Ask(7);
    ASSERT_TRUE(Eventually([&] { return door_->answers().size() > answered; }));
    door_->Ask(8);
    EXPECT_TRUE(Eventually([&] { return door_->refused() > refused; })) << reader;
  }
  // Another reader is not taken for one that has a name.
  door_->SetReader(4712);
  const size_t answered = door_->answers().size();
  const int refused = door_->refused();
  door_->Ask(9);
  ASSERT_TRUE(Eventually([&] { return door_->answers().size() > answered; }));
  EXPECT_EQ(door_->refused(), refused);
}

TEST_F(KeeperDoorTest, ReadThatIsGivenUpIsInTheJournalUntilItIsAnswered) {
  ASSERT_TRUE(door_->Start().ok());
  door_->Ask(7);
  ASSERT_TRUE(Eventually([&] { return journal_->slots()[0].word().state() == SlotState::kPending; }));
  door_->GiveUpAll();
  ASSERT_EQ(door_->answers().size(), 1u);
  EXPECT_EQ(door_->answers().front().verdict, EINTR);
  EXPECT_NE(door_->answers().front().state, SlotState::kFree);
  EXPECT_EQ(journal_->slots()[0].word().state(), SlotState::kFree);
  EXPECT_EQ(door_->let_go().front().state, SlotState::kFree);
}

TEST_F(KeeperDoorTest, WhileReadsAreRefusedNoneWaitsAndNoneIsAHit) {
  journal_->layout().blobs[0].size = 1 << 20;
  journal_->layout().blobs[0].chunk_shift = 18;
  for (auto& word : std::span(journal_->layout().present[0].words).first(1)) word.store(1);
  ASSERT_TRUE(door_->Start().ok());
  EXPECT_TRUE(door_->IsHit(4096)) << "it is present";
  door_->Ask(7);
  ASSERT_TRUE(Eventually([&] { return journal_->slots()[0].word().state() == SlotState::kPending; }));
  door_->RefuseReads();
  ASSERT_EQ(door_->answers().size(), 1u);
  EXPECT_EQ(door_->answers().front().verdict, EIO);
  EXPECT_FALSE(door_->IsHit(4096));
  door_->Ask(8);
  EXPECT_TRUE(Eventually([&] { return door_->refused() == 1; }));

  door_->ServeReads();
  EXPECT_TRUE(door_->IsHit(4096));
  door_->Ask(9);
  EXPECT_TRUE(Eventually([&] { return journal_->slots()[0].word().state() == SlotState::kPending; }));
}

TEST_F(KeeperDoorTest, SuccessorAnswersWhatExpiredBeforeItsPredecessorDied) {
  journal_->slots()[3].read = {.request = 9, .length = 4096, .deadline_ns = 1};
  journal_->Submit(3);
  ASSERT_EQ(journal_->slots()[3].Expire(), SlotState::kPending);
  door_->Adopt();
  ASSERT_EQ(door_->answers().size(), 1u);
  EXPECT_EQ(door_->answers().front().request, 9u);
  EXPECT_EQ(door_->answers().front().verdict, EIO);
  EXPECT_EQ(journal_->slots()[3].word().state(), SlotState::kFree);
}

}  // namespace
}  // namespace sluice::keeper
