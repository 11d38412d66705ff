#include "ondemand/keeper/door.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr int kReadyMax = 4;
constexpr auto kInterruptAgain = std::chrono::milliseconds(2);
// How long after a failure the kernel's further tries are taken for the same read's; half a deadline at most.
constexpr int64_t kSameReadNs = 1'000'000'000;
// What the kernel reads ahead of a reader, if nobody has set it higher (VM_READAHEAD_PAGES).
constexpr uint64_t kReadaheadBytes = 128 << 10;
constexpr size_t kFailuresMax = 65536;
static_assert(kBlobsMax <= 1u << 16 && kChunksMax <= 1u << 16);

uint64_t FailureKey(const SlotRead& read, uint64_t chunk) {
  return uint64_t{read.blob} << 48 | chunk << 32 | static_cast<uint32_t>(std::max(read.pid, 0));
}

// The numbers of the chunks that a range touches, of those that a blob can have: whatever the record says.
struct ChunkNumbers {
  uint64_t first;
  uint64_t end;
};
ChunkNumbers ChunksOf(const BlobRecord& record, uint64_t offset, uint64_t length) {
  const uint32_t shift = std::clamp(record.chunk_shift, kChunkShiftMin, kChunkShiftMax);
  const uint64_t end = std::min<uint64_t>(((offset + length - 1) >> shift) + 1, kChunksMax);
  return {std::min(offset >> shift, end), end};
}

bool IsPresent(const PresenceBits& bits, uint64_t chunk) {
  return (bits.words[chunk / 64].load(std::memory_order_acquire) >> chunk % 64 & 1) != 0;
}

void DrainEvent(int fd) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t length = read(fd, &count, sizeof(count));
}

}  // namespace

Door::Door(Journal& journal, Kernel kernel, int completions)
    : journal_(journal),
      counters_(journal.layout().counters),
      kernel_(kernel),
      completions_(completions),
      held_(journal.slots().size()) {
  free_.reserve(held_.size());
  for (uint32_t i = static_cast<uint32_t>(held_.size()); i-- > 0;) free_.push_back(i);
}

// ------------------------------------------------------------------------------------------ the thread

Outcome Door::Start() {
  poll_.reset(epoll_create1(EPOLL_CLOEXEC));
  call_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!poll_.valid() || !call_event_.valid()) return ErrnoError("set up the door's event loop");
  for (const int fd : {kernel_.requests, completions_, call_event_.get()}) {
    if (!WatchDescriptor(fd)) return ErrnoError("watch the door's events");
  }
  // Without SA_RESTART: it is there to make a blocking read return.
  struct sigaction interrupt {};
  interrupt.sa_handler = [](int) {};
  if (sigaction(SIGUSR1, &interrupt, nullptr) != 0) return ErrnoError("handle SIGUSR1");
  const int flags = fcntl(kernel_.requests, F_GETFL);
  blocking_ = (flags & O_NONBLOCK) == 0;
  thread_ = std::thread([this] { Run(); });
  return {};
}

bool Door::WatchDescriptor(int fd) {
  epoll_event interest{};
  interest.events = EPOLLIN;
  interest.data.fd = fd;
  return epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &interest) == 0;
}

void Door::Stop() {
  if (!thread_.joinable()) return;
  CallOnThread([this] { stopping_ = true; });
  thread_.join();
}

void Door::CallOnThread(std::function<void()> call) {
  if (!thread_.joinable()) return call();
  std::unique_lock lock(call_mutex_);
  call_ = std::move(call);
  call_waits_.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(call_event_.get(), &one, sizeof(one));
  // Again and again: a signal that comes just before the thread blocks interrupts nothing.
  do pthread_kill(thread_.native_handle(), SIGUSR1);
  while (!call_done_.wait_for(lock, kInterruptAgain, [this] { return call_ == nullptr; }));
}

void Door::RunCall() {
  DrainEvent(call_event_.get());
  const std::lock_guard lock(call_mutex_);
  call_waits_.store(false);
  if (call_ == nullptr) return;
  call_();
  call_ = nullptr;
  call_done_.notify_all();
}

void Door::Run() {
  prctl(PR_SET_NAME, "door");
  while (!stopping_) {
    if (ReadsWait() || !ReadingCanBlock()) {
      WaitForAnything();
    } else {
      WaitForRequest();
    }
  }
  SetBlocking(false);
  RefuseHeld();
  RefuseQueued();
}

void Door::WaitForRequest() {
  if (call_waits_.load()) return RunCall();
  SetBlocking(true);
  ReadRequests();
}

void Door::WaitForAnything() {
  SetBlocking(false);
  UpdateIntake();  // also before the first wait: a successor may take over with all slots held
  epoll_event ready[kReadyMax];
  const int count = epoll_wait(poll_.get(), ready, kReadyMax, WaitTimeout());
  for (int i = 0; i < count; ++i) {
    if (ready[i].data.fd == kernel_.requests) {
      ReadRequests();
    } else if (ready[i].data.fd == completions_) {
      AnswerFinished();
    } else if (ready[i].data.fd == call_event_.get()) {
      RunCall();
    } else {
      OnReadable(ready[i].data.fd);
    }
  }
  if (first_waiting_ != kNone) ExpireDue(NowNs());
  if (timer_ns_ != 0 && timer_ns_ <= NowNs()) {
    timer_ns_ = 0;
    OnTimer();
  }
  AfterRound();
}

// A request that was there may be gone again, when its reader was killed: with reads to answer, the thread
// must not block for the next one.
void Door::SetBlocking(bool blocking) {
  if (blocking == blocking_ || !ReadingCanBlock()) return;
  const int flags = fcntl(kernel_.requests, F_GETFL);
  const int changed = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
  if (fcntl(kernel_.requests, F_SETFL, changed) == 0) blocking_ = blocking;
}

int Door::WaitTimeout() const {
  if (first_waiting_ == kNone && timer_ns_ == 0) return -1;
  int64_t next_ns = timer_ns_ != 0 ? timer_ns_ : INT64_MAX;
  if (first_waiting_ != kNone) next_ns = std::min(next_ns, held_[first_waiting_].read.deadline_ns);
  const int64_t left_ms = (next_ns - NowNs()) / 1'000'000 + 1;
  return static_cast<int>(std::clamp<int64_t>(left_ms, 0, 60'000));
}

// Without a free slot, reads wait in the kernel: a slot comes free at the earliest deadline at the latest.
// Only when all are held by a daemon that does not let go is there nothing to wait for, and misses are
// refused.
void Door::UpdateIntake() {
  const bool open = !free_.empty() || first_waiting_ == kNone || !ReadsWaitInKernel();
  if (open == intake_open_) return;
  epoll_event interest{};
  interest.events = open ? static_cast<uint32_t>(EPOLLIN) : 0;
  interest.data.fd = kernel_.requests;
  if (epoll_ctl(poll_.get(), EPOLL_CTL_MOD, kernel_.requests, &interest) == 0) intake_open_ = open;
}

// ------------------------------------------------------------------------------------------------ slots

bool Door::AllPresent(uint32_t entry, uint32_t chunk_shift, uint64_t offset, uint64_t length) const {
  if (refuses_reads_.load(std::memory_order_relaxed)) return false;
  const PresenceBits& bits = journal_.layout().present[entry];
  const uint64_t last = (offset + length - 1) >> chunk_shift;
  for (uint64_t chunk = offset >> chunk_shift; chunk <= last; ++chunk) {
    if (!IsPresent(bits, chunk)) return false;
  }
  return true;
}

void Door::CountHit(const SlotRead& read) {
  BlobRecord& record = journal_.layout().blobs[read.blob];
  for (std::atomic<uint64_t>* reads : {&counters_.hits, &record.hits}) CountOne(*reads);
  for (std::atomic<uint64_t>* bytes : {&counters_.hit_bytes, &record.hit_bytes}) {
    bytes->fetch_add(read.length, std::memory_order_relaxed);
  }
  NoteTouched(record, read);
}

void Door::NoteTouched(const BlobRecord& record, const SlotRead& read) {
  if (!HasTouchedBits(record.size, record.chunk_shift)) return;
  PresenceBits& bits = journal_.layout().present[read.blob];
  const uint64_t last = (read.offset + read.length - 1) >> record.chunk_shift;
  for (uint64_t chunk = read.offset >> record.chunk_shift; chunk <= last; ++chunk) {
    std::atomic<uint64_t>& word = bits.words[kTouchedFrom + chunk / 64];
    const uint64_t mask = uint64_t{1} << chunk % 64;
    // Most are touched again and again: then the line stays shared.
    if ((word.load(std::memory_order_relaxed) & mask) == 0) word.fetch_or(mask, std::memory_order_relaxed);
  }
}

bool Door::FailsAgain(const SlotRead& read) {
  if (refuses_reads_.load(std::memory_order_relaxed)) return true;
  if (failed_until_ns_.empty()) return false;
  const int64_t now_ns = NowNs();
  const BlobRecord& record = journal_.layout().blobs[read.blob];
  for (auto [chunk, end] = ChunksOf(record, read.offset, read.length); chunk < end; ++chunk) {
    if (IsPresent(journal_.layout().present[read.blob], chunk)) continue;
    const auto failed = failed_until_ns_.find(FailureKey(read, chunk));
    if (failed != failed_until_ns_.end() && now_ns < failed->second) return true;
  }
  return false;
}

// Only what took a good part of its time: an error that came at once is as quick the next time.
void Door::RememberFailure(const SlotRead& read) {
  // A journal that was damaged may say anything.
  if (read.blob >= kBlobsMax || read.length == 0) return;
  const int64_t limit_ns = journal_.layout().read_deadline_ns.load(std::memory_order_relaxed);
  const int64_t now_ns = NowNs();
  if (read.deadline_ns - now_ns > limit_ns / 2) return;
  if (failed_until_ns_.size() >= kFailuresMax)
    std::erase_if(failed_until_ns_, [now_ns](const auto& failed) { return failed.second <= now_ns; });
  const int64_t until_ns = now_ns + std::min(limit_ns / 2, kSameReadNs);
  const BlobRecord& record = journal_.layout().blobs[read.blob];
  for (auto [chunk, end] = ChunksOf(record, read.offset, read.length + kReadaheadBytes); chunk < end;
       ++chunk) {
    if (failed_until_ns_.size() >= kFailuresMax) return;
    failed_until_ns_[FailureKey(read, chunk)] = until_ns;
  }
}

uint32_t Door::TakeFreeSlot(SlotRead& read) {
  const uint32_t index = free_.back();
  free_.pop_back();
  read.deadline_ns = NowNs() + journal_.layout().read_deadline_ns.load(std::memory_order_relaxed);
  journal_.slots()[index].read = read;
  Hold(index, read);
  return index;
}

uint32_t Door::Publish(SlotRead read) {
  const uint32_t index = TakeFreeSlot(read);
  journal_.Submit(index);
  CountOne(counters_.published);
  return index;
}

void Door::PublishFinished(SlotRead read) {
  const uint32_t index = TakeFreeSlot(read);
  journal_.slots()[index].PublishFinished();
  Unlink(index);
  if (Answer(index, read, 0) == Answered::kNow) OnAnswered(index);
}

void Door::AnswerFinished() {
  DrainEvent(completions_);
  CollectAnswered();
  TakeBits(journal_.layout().finished, [this](uint32_t index) {
    if (index < held_.size()) Reap(index);
  });
}

// The order matters to a successor: what the kernel knows the request by is let go, and so can be given to
// another, only when no slot names it any more.
void Door::Reap(uint32_t index) {
  const Held& held = held_[index];
  if (!held.in_use) return;
  const SlotWord word = journal_.slots()[index].word();
  if (word.state() == SlotState::kReleased) return OnAnswered(index);
  if (word.state() != SlotState::kDone || !held.waiting) return;
  CountOne(word.verdict() == 0 ? counters_.filled : counters_.refused);
  if (word.verdict() != 0) RememberFailure(held.read);
  Unlink(index);
  if (Answer(index, held.read, word.verdict()) == Answered::kNow) OnAnswered(index);
}

void Door::OnAnswered(uint32_t index) {
  journal_.slots()[index].Free();
  Release(index);
}

void Door::ExpireDue(int64_t now_ns) {
  while (first_waiting_ != kNone && held_[first_waiting_].read.deadline_ns <= now_ns) {
    const uint32_t index = first_waiting_;
    const SlotState was = journal_.slots()[index].Expire();
    if (was == SlotState::kDone) {
      Reap(index);
      continue;
    }
    Unlink(index);
    CountOne(counters_.expired);
    // One that was taken counts when the daemon lets go of it.
    if (was == SlotState::kPending) Failed(held_[index].read, Refusal::kNoAnswer);
    RememberFailure(held_[index].read);
    Answer(index, held_[index].read, EIO);
    // Taken: the slot and what the kernel knows the request by stay reserved until the daemon lets go.
    if (was != SlotState::kTaken) OnAnswered(index);
  }
}

void Door::GiveUp(uint32_t index, int error) {
  if (!held_[index].waiting) return;
  const SlotState was = journal_.slots()[index].Expire();
  if (was == SlotState::kDone) return Reap(index);
  Unlink(index);
  Answer(index, held_[index].read, error);
  if (was != SlotState::kTaken) OnAnswered(index);
}

void Door::RefuseReadsOf(uint32_t entry) {
  ForEachHeld([this, entry](uint32_t index, const SlotRead& read) {
    if (read.blob == entry) GiveUp(index, EIO);
  });
}

// Also where the daemon has finished a read that is not answered yet: it is answered as it is.
void Door::RefuseReads() {
  CallOnThread([this] {
    refuses_reads_.store(true);
    ForEachHeld([this](uint32_t index, const SlotRead&) { GiveUp(index, EIO); });
  });
}

void Door::ServeReads() {
  CallOnThread([this] { refuses_reads_.store(false); });
}

void Door::Renumber(uint32_t index, uint64_t request) {
  held_[index].read.request = request;
  journal_.slots()[index].read.request = request;
}

void Door::Hold(uint32_t index, const SlotRead& read) {
  // Deadlines come in order, unless the time limit has been changed.
  uint32_t before = last_waiting_;
  while (before != kNone && held_[before].read.deadline_ns > read.deadline_ns)
    before = held_[before].previous;
  const uint32_t after = before == kNone ? first_waiting_ : held_[before].next;
  held_[index] = {read, true, true, before, after};
  (before == kNone ? first_waiting_ : held_[before].next) = index;
  (after == kNone ? last_waiting_ : held_[after].previous) = index;
}

void Door::Unlink(uint32_t index) {
  Held& held = held_[index];
  if (!std::exchange(held.waiting, false)) return;
  (held.previous == kNone ? first_waiting_ : held_[held.previous].next) = held.next;
  (held.next == kNone ? last_waiting_ : held_[held.next].previous) = held.previous;
}

void Door::Release(uint32_t index) {
  Unlink(index);
  LetGo(held_[index].read);
  held_[index] = {};
  free_.push_back(index);
}

void Door::RefuseHeld() {
  for (uint32_t i = 0; i < held_.size(); ++i) {
    if (!held_[i].in_use) continue;
    Answer(i, held_[i].read, EIO);
    journal_.slots()[i].Free();
    Release(i);
  }
}

// -------------------------------------------------------------------------------------- daemon and keeper
// die

void Door::AbandonTickets() {
  CallOnThread([this] {
    for (uint32_t i = 0; i < held_.size(); ++i) {
      if (!held_[i].in_use) continue;
      if (journal_.slots()[i].word().state() == SlotState::kExpired)
        Failed(held_[i].read, Refusal::kNoAnswer);
      journal_.Abandon(i);
      // It may have died between finishing a slot and saying so.
      Reap(i);
    }
  });
}

void Door::ForgetFailures() {
  CallOnThread([this] { failed_until_ns_.clear(); });
}

void Door::Adopt() {
  free_.clear();
  for (uint32_t i = static_cast<uint32_t>(held_.size()); i-- > 0;) {
    if (journal_.slots()[i].word().state() == SlotState::kFree) {
      free_.push_back(i);
    } else {
      Hold(i, journal_.slots()[i].read);
    }
  }
  AdoptOthers();
  ForEachHeld([this](uint32_t index, const SlotRead&) { AdoptSlot(index); });
  Log("took over: %zu reads wait", held_.size() - free_.size());
}

void Door::AdoptSlot(uint32_t index) {
  const SlotState state = journal_.slots()[index].word().state();
  if (state == SlotState::kPending) journal_.Resubmit(index);
  if (state == SlotState::kExpired || state == SlotState::kReleased) {
    Unlink(index);
    Answer(index, held_[index].read, EIO);
  }
  Reap(index);
}

}  // namespace sluice::keeper
