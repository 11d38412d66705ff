#include "ondemand/keeper/door.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>

#include "ondemand/keeper/fanotify_uapi.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr uint32_t kRefuse = FAN_DENY_ERRNO(EIO);
constexpr auto kInterruptAgain = std::chrono::milliseconds(2);
// Room for one event with its range record but not for two: an event that was read is in the journal or
// answered before the next one is read.
constexpr size_t kEventBytesMax = sizeof(fanotify_event_metadata) + sizeof(RangeRecord) + 16;

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

void Add(std::atomic<uint64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

void DrainEvent(int fd) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t length = read(fd, &count, sizeof(count));
}

const RangeRecord* RangeOf(const fanotify_event_metadata& event) {
  if (event.event_len < event.metadata_len + sizeof(RangeRecord)) return nullptr;
  const auto* record =
      reinterpret_cast<const RangeRecord*>(reinterpret_cast<const char*>(&event) + event.metadata_len);
  return record->header.info_type == FAN_EVENT_INFO_TYPE_RANGE ? record : nullptr;
}

// REQUIRES: length > 0, the range ends within the blob
bool AllPresent(const BlobRecord& record, uint32_t chunk_shift, uint64_t offset, uint64_t length) {
  const uint64_t last = (offset + length - 1) >> chunk_shift;
  for (uint64_t chunk = offset >> chunk_shift; chunk <= last; ++chunk) {
    if ((record.present[chunk / 64].load(std::memory_order_acquire) >> chunk % 64 & 1) == 0) return false;
  }
  return true;
}

}  // namespace

Door::Door(Journal& journal, int group, int completions, FileId canary)
    : journal_(journal),
      counters_(journal.layout().counters),
      group_(group),
      completions_(completions),
      canary_(canary),
      held_(journal.slots().size()) {
  free_.reserve(held_.size());
  for (uint32_t i = static_cast<uint32_t>(held_.size()); i-- > 0;) free_.push_back(i);
}

Outcome Door::Start() {
  poll_.reset(epoll_create1(EPOLL_CLOEXEC));
  call_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!poll_.valid() || !call_event_.valid()) return ErrnoError("set up the door's event loop");
  for (const int fd : {group_, completions_, call_event_.get()}) {
    epoll_event interest{};
    interest.events = EPOLLIN;
    interest.data.fd = fd;
    if (epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &interest) != 0)
      return ErrnoError("watch the door's events");
  }
  // Without SA_RESTART: it is there to make a blocking read return.
  struct sigaction interrupt {};
  interrupt.sa_handler = [](int) {};
  if (sigaction(SIGUSR1, &interrupt, nullptr) != 0) return ErrnoError("handle SIGUSR1");
  const int flags = fcntl(group_, F_GETFL);
  blocking_ = (flags & O_NONBLOCK) == 0;
  thread_ = std::thread([this] { Run(); });
  return {};
}

void Door::Stop() {
  if (!thread_.joinable()) return;
  CallOnThread([this] { stopping_ = true; });
  thread_.join();
}

void Door::Guard(const InodeTable::Blob& blob) {
  CallOnThread([&] { blobs_.Insert(blob); });
}

void Door::Forget(FileId file) {
  CallOnThread([&] { blobs_.Erase(file); });
}

void Door::AbandonTickets() {
  CallOnThread([this] {
    for (uint32_t i = 0; i < held_.size(); ++i) {
      if (held_[i].event_fd < 0) continue;
      journal_.Abandon(i);
      // It may have died between finishing a slot and saying so.
      Reap(i);
    }
  });
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
    if (ReadsWait()) {
      WaitForAnything();
    } else {
      WaitForEvent();
    }
  }
  SetBlocking(false);
  RefuseEverything();
}

void Door::WaitForEvent() {
  if (call_waits_.load()) return RunCall();
  SetBlocking(true);
  ReadEvents();
}

void Door::WaitForAnything() {
  SetBlocking(false);
  epoll_event ready[3];
  const int count = epoll_wait(poll_.get(), ready, 3, WaitTimeout());
  for (int i = 0; i < count; ++i) {
    if (ready[i].data.fd == group_) {
      ReadEvents();
    } else if (ready[i].data.fd == completions_) {
      AnswerFinished();
    } else {
      RunCall();
    }
  }
  if (first_waiting_ != kNone) ExpireDue(NowNs());
  UpdateIntake();
}

// An event that was there may be gone again, when its reader was killed: with reads to answer, the thread
// must not block for the next one.
void Door::SetBlocking(bool blocking) {
  if (blocking == blocking_) return;
  const int flags = fcntl(group_, F_GETFL);
  if (fcntl(group_, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK) == 0) blocking_ = blocking;
}

int Door::WaitTimeout() const {
  if (first_waiting_ == kNone) return -1;
  const int64_t left_ms = (held_[first_waiting_].deadline_ns - NowNs()) / 1'000'000 + 1;
  return static_cast<int>(std::clamp<int64_t>(left_ms, 0, 60'000));
}

// Without a free slot, reads wait in the kernel: a slot comes free at the earliest deadline at the latest.
// Only when all are held by a daemon that does not let go is there nothing to wait for, and misses are
// refused.
void Door::UpdateIntake() {
  const bool open = !free_.empty() || first_waiting_ == kNone;
  if (open == intake_open_) return;
  epoll_event interest{};
  interest.events = open ? static_cast<uint32_t>(EPOLLIN) : 0;
  interest.data.fd = group_;
  if (epoll_ctl(poll_.get(), EPOLL_CTL_MOD, group_, &interest) == 0) intake_open_ = open;
}

void Door::ReadEvents() {
  alignas(fanotify_event_metadata) char buffer[kEventBytesMax];
  ssize_t length = read(group_, buffer, sizeof(buffer));
  if (length < 0) {
    // The kernel has refused the read already if it found no descriptor for its event.
    if (errno != EAGAIN && errno != EINTR) Add(counters_.errors);
    return;
  }
  const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
  for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) HandleEvent(*event);
}

void Door::HandleEvent(const fanotify_event_metadata& event) {
  if (event.fd < 0) {
    Add(counters_.errors);
    return;
  }
  SlotRead read;
  const Lookup found = Classify(event, read);
  if (found == Lookup::kAbsent && !free_.empty()) {
    Publish(read);
    return;
  }
  if (found == Lookup::kPresent) {
    CountHit(read);
    Answer(event.fd, FAN_ALLOW);
  } else {
    Add(counters_.denied);
    Answer(event.fd, kRefuse);
  }
  close(event.fd);
}

Door::Lookup Door::Classify(const fanotify_event_metadata& event, SlotRead& read) {
  struct stat status {};
  if (event.vers != FANOTIFY_METADATA_VERSION || fstat(event.fd, &status) != 0) return Lookup::kRefused;
  const FileId file{status.st_dev, status.st_ino};
  const InodeTable::Blob* blob = blobs_.Find(file);
  if (blob == nullptr) {
    if (file == canary_) Add(counters_.canaries);
    return Lookup::kRefused;
  }
  // Somebody cut or deleted the file: what the bits say is not true of it any more.
  if (static_cast<uint64_t>(status.st_size) != blob->size || status.st_nlink == 0) return Lookup::kRefused;

  const RangeRecord* range = RangeOf(event);
  const uint64_t offset = range != nullptr ? range->offset : 0;
  if (offset >= blob->size) return Lookup::kRefused;
  const uint64_t left = blob->size - offset;
  const uint64_t length =
      range != nullptr && range->count != 0 ? std::min<uint64_t>(range->count, left) : left;
  read.blob = blob->entry;
  read.event_fd = event.fd;
  read.pid = event.pid;
  read.device = file.device;
  read.inode = file.inode;
  read.offset = offset;
  read.length = length;
  const bool present = AllPresent(journal_.layout().blobs[blob->entry], blob->chunk_shift, offset, length);
  return present ? Lookup::kPresent : Lookup::kAbsent;
}

void Door::CountHit(const SlotRead& read) {
  BlobRecord& record = journal_.layout().blobs[read.blob];
  for (std::atomic<uint64_t>* reads : {&counters_.hits, &record.hits}) Add(*reads);
  for (std::atomic<uint64_t>* bytes : {&counters_.hit_bytes, &record.hit_bytes}) {
    bytes->fetch_add(read.length, std::memory_order_relaxed);
  }
}

void Door::Publish(const SlotRead& read) {
  const uint32_t index = free_.back();
  free_.pop_back();
  const int64_t deadline_ns = NowNs() + journal_.layout().read_deadline_ns.load(std::memory_order_relaxed);
  Slot& slot = journal_.slots()[index];
  slot.read = read;
  slot.read.deadline_ns = deadline_ns;
  Hold(index, read.event_fd, deadline_ns);
  journal_.Submit(index);
  Add(counters_.published);
}

void Door::AnswerFinished() {
  DrainEvent(completions_);
  TakeBits(journal_.layout().finished, [this](uint32_t index) {
    if (index < held_.size()) Reap(index);
  });
}

// The order matters to a successor: a number is closed, and so can be given to another event, only when no
// slot names it any more.
void Door::Reap(uint32_t index) {
  if (held_[index].event_fd < 0) return;
  Slot& slot = journal_.slots()[index];
  const SlotWord word = slot.word();
  if (word.state() != SlotState::kDone && word.state() != SlotState::kReleased) return;
  if (word.state() == SlotState::kDone) {
    Add(word.verdict() == 0 ? counters_.filled : counters_.refused);
    Answer(held_[index].event_fd, word.verdict() == 0 ? static_cast<uint32_t>(FAN_ALLOW) : kRefuse);
  }
  slot.Free();
  Release(index);
}

void Door::ExpireDue(int64_t now_ns) {
  while (first_waiting_ != kNone && held_[first_waiting_].deadline_ns <= now_ns) {
    const uint32_t index = first_waiting_;
    const SlotState was = journal_.slots()[index].Expire();
    if (was == SlotState::kDone) {
      Reap(index);
      continue;
    }
    Unlink(index);
    held_[index].expired = true;
    Add(counters_.expired);
    Answer(held_[index].event_fd, kRefuse);
    // Taken: the slot and the event's number stay reserved until the daemon lets go.
    if (was != SlotState::kTaken) Release(index);
  }
}

void Door::Answer(int event_fd, uint32_t response) {
  const fanotify_response answer{event_fd, response};
  // ENOENT: the reader was killed meanwhile.
  if (write(group_, &answer, sizeof(answer)) < 0 && errno != ENOENT) Add(counters_.errors);
}

void Door::Hold(uint32_t index, int event_fd, int64_t deadline_ns) {
  // Deadlines come in order, unless the time limit has been changed.
  uint32_t before = last_waiting_;
  while (before != kNone && held_[before].deadline_ns > deadline_ns) before = held_[before].previous;
  const uint32_t after = before == kNone ? first_waiting_ : held_[before].next;
  held_[index] = {event_fd, false, before, after, deadline_ns};
  (before == kNone ? first_waiting_ : held_[before].next) = index;
  (after == kNone ? last_waiting_ : held_[after].previous) = index;
}

void Door::Unlink(uint32_t index) {
  const Held& held = held_[index];
  (held.previous == kNone ? first_waiting_ : held_[held.previous].next) = held.next;
  (held.next == kNone ? last_waiting_ : held_[held.next].previous) = held.previous;
}

void Door::Release(uint32_t index) {
  if (!held_[index].expired) Unlink(index);
  close(held_[index].event_fd);
  held_[index] = {};
  free_.push_back(index);
}

void Door::Adopt() {
  free_.clear();
  std::vector<bool> named(journal_.layout().descriptor_limit, false);
  for (uint32_t i = static_cast<uint32_t>(held_.size()); i-- > 0;) {
    const Slot& slot = journal_.slots()[i];
    if (slot.word().state() == SlotState::kFree) {
      free_.push_back(i);
      continue;
    }
    named[static_cast<uint32_t>(slot.read.event_fd)] = true;
    AdoptSlot(i);
  }
  // Events that the predecessor had read and not yet written down, or written off but not yet answered.
  uint32_t refused = 0;
  for (uint32_t number = 0; number < named.size(); ++number) {
    if (named[number]) continue;
    const fanotify_response answer{static_cast<int>(number), kRefuse};
    if (write(group_, &answer, sizeof(answer)) > 0) ++refused;
  }
  for (uint32_t i = 0; i < kBlobsMax; ++i) {
    const BlobRecord& record = journal_.layout().blobs[i];
    if (record.in_use.load() == 0) continue;
    blobs_.Insert({{record.device, record.inode}, i, record.chunk_shift, record.size});
  }
  Log("took over: %zu reads wait, %u were refused", held_.size() - free_.size(), refused);
}

void Door::AdoptSlot(uint32_t index) {
  const Slot& slot = journal_.slots()[index];
  const SlotState state = slot.word().state();
  Hold(index, slot.read.event_fd, slot.read.deadline_ns);
  if (state == SlotState::kPending) journal_.Resubmit(index);
  if (state == SlotState::kExpired || state == SlotState::kReleased) {
    Answer(slot.read.event_fd, kRefuse);
    Unlink(index);
    held_[index].expired = true;
  }
  Reap(index);
}

void Door::RefuseEverything() {
  for (uint32_t i = 0; i < held_.size(); ++i) {
    if (held_[i].event_fd < 0) continue;
    Answer(held_[i].event_fd, kRefuse);
    journal_.slots()[i].Free();
    Release(i);
  }
  alignas(fanotify_event_metadata) char buffer[kEventBytesMax];
  ssize_t length;
  while ((length = read(group_, buffer, sizeof(buffer))) > 0) {
    const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
    for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
      if (event->fd < 0) continue;
      Answer(event->fd, kRefuse);
      close(event->fd);
    }
  }
}

Outcome ReserveEventNumbers(Journal& journal) {
  Descriptor filler(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!filler.valid()) return ErrnoError("open /dev/null");
  // Out of the way of the numbers themselves.
  const int limit = static_cast<int>(journal.layout().descriptor_limit);
  Descriptor high(fcntl(filler.get(), F_DUPFD_CLOEXEC, limit - 1));
  if (!high.valid()) return ErrnoError("reserve event numbers");
  filler.reset();
  for (const Slot& slot : journal.slots()) {
    const int number = slot.read.event_fd;
    if (slot.word().state() == SlotState::kFree) continue;
    if (number <= STDERR_FILENO || number >= limit || number == high.get() || fcntl(number, F_GETFD) >= 0) {
      return Error{EPROTO, "the journal names descriptor " + std::to_string(number) + ", which is in use"};
    }
    if (dup3(high.get(), number, O_CLOEXEC) < 0) return ErrnoError("reserve an event number");
  }
  return {};
}

}  // namespace sluice::keeper
