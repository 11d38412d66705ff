#include "ondemand/keeper/journal.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <new>

namespace sluice::keeper {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// Not FUTEX_PRIVATE: the other side is another process.
void Futex(const std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  syscall(SYS_futex, reinterpret_cast<const uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

Result<void*> MapJournal(int fd) {
  void* memory = mmap(nullptr, sizeof(JournalLayout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return ErrnoError("map the journal");
  return memory;
}

}  // namespace

const char* DoorName(DoorKind kind) {
  switch (kind) {
    case DoorKind::kFanotify:
      return "fanotify";
    case DoorKind::kCachefiles:
      return "cachefiles";
    case DoorKind::kFuse:
      return "fuse";
  }
  return "unknown";
}

const char* RefusalText(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "";
    case Refusal::kNoAnswer:
      return "no daemon answered the read before its deadline";
    case Refusal::kNoSlot:
      return "so many reads wait for the daemon that no more are taken";
    case Refusal::kFileChanged:
      return "the blob's file in the store was cut or deleted; \"sluice blob evict\" has it fetched anew";
    case Refusal::kNotCopied:
      return "the bytes could not be put into the kernel's cache; the log says why";
    case Refusal::kBroken:
      return "the kernel's side of the mounts is gone; unmount all images, then restart sluiced";
  }
  return "of another version of sluice";
}

void CountFailed(JournalLayout& layout, uint32_t entry, Refusal why) {
  if (entry < kBlobsMax) {
    layout.blobs[entry].last_refusal.store(why, std::memory_order_relaxed);
    layout.blobs[entry].failed.fetch_add(1, std::memory_order_relaxed);
  }
  // Last: whoever sees it here sees it at the blob, too.
  layout.counters.failed.fetch_add(1, std::memory_order_release);
}

uint64_t Slot::Take() {
  const SlotWord seen = word();
  if (seen.state() != SlotState::kPending) return 0;
  return Move(seen, SlotWord(seen.ticket(), SlotState::kTaken)) ? seen.ticket() : 0;
}

bool Slot::Finish(uint64_t ticket, uint8_t verdict) {
  if (Move(SlotWord(ticket, SlotState::kTaken), SlotWord(ticket, SlotState::kDone, verdict))) return true;
  Move(SlotWord(ticket, SlotState::kExpired), SlotWord(ticket, SlotState::kReleased));
  return false;
}

SlotState Slot::Expire() {
  // The daemon moves the word at most twice (take, finish) before it is out of the keeper's reach.
  for (;;) {
    const SlotWord seen = word();
    if (seen.state() == SlotState::kPending) {
      if (Move(seen, SlotWord(seen.ticket(), SlotState::kReleased))) return SlotState::kPending;
    } else if (seen.state() == SlotState::kTaken) {
      if (Move(seen, SlotWord(seen.ticket(), SlotState::kExpired))) return SlotState::kTaken;
    } else {
      return seen.state();
    }
  }
}

void Slot::Abandon(uint64_t new_ticket) {
  const SlotWord seen = word();
  if (seen.state() == SlotState::kTaken) Move(seen, SlotWord(new_ticket, SlotState::kPending));
  if (seen.state() == SlotState::kExpired) Move(seen, SlotWord(seen.ticket(), SlotState::kReleased));
}

Journal::Journal(Descriptor file, JournalLayout* layout)
    : file_(std::move(file)), layout_(layout), slot_count_(layout->slot_count) {}

Journal::~Journal() {
  if (!keep_mapped_.load()) munmap(layout_, sizeof(JournalLayout));
}

Result<std::unique_ptr<Journal>> Journal::Create(uint32_t slot_count, DoorKind door) {
  Descriptor file(memfd_create("sluice-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return ErrnoError("create the journal");
  if (ftruncate(file.get(), sizeof(JournalLayout)) != 0) return ErrnoError("size the journal");
  if (fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoError("seal the journal");
  Result<void*> memory = MapJournal(file.get());
  if (!memory.ok()) return memory.error();
  // Default, not value initialisation: it must not write zeros over 160 MiB of memory that is zero already,
  // and need not be there.
  auto* layout = static_cast<JournalLayout*>(memory.value());
  layout->magic = kJournalMagic;
  layout->version = kJournalVersion;
  layout->slot_count = slot_count;
  layout->door = door;
  layout->next_ticket.store(1);
  return std::unique_ptr<Journal>(new Journal(std::move(file), layout));
}

Result<std::unique_ptr<Journal>> Journal::Open(int fd, int lowest_number) {
  Descriptor file(fcntl(fd, F_DUPFD_CLOEXEC, lowest_number));
  if (!file.valid()) return ErrnoError("duplicate the journal's descriptor");
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return ErrnoError("inspect the journal");
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (status.st_size != static_cast<off_t>(sizeof(JournalLayout)) || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    return Error{EPROTO, "not a journal of this version of sluice: wrong size or not sealed"};
  }
  Result<void*> memory = MapJournal(file.get());
  if (!memory.ok()) return memory.error();
  auto* layout = static_cast<JournalLayout*>(memory.value());
  if (layout->magic != kJournalMagic || layout->version != kJournalVersion || layout->slot_count == 0 ||
      layout->slot_count > kSlotsMax) {
    munmap(layout, sizeof(JournalLayout));
    return Error{EPROTO, "not a journal of this version of sluice"};
  }
  return std::unique_ptr<Journal>(new Journal(std::move(file), layout));
}

uint64_t Journal::Submit(uint32_t index) {
  const uint64_t ticket = layout_->next_ticket.fetch_add(1, std::memory_order_relaxed);
  layout_->slots[index].Publish(ticket);
  Resubmit(index);
  return ticket;
}

void Journal::Resubmit(uint32_t index) {
  layout_->submitted[index / 64].fetch_or(uint64_t{1} << index % 64, std::memory_order_release);
  layout_->submissions.fetch_add(1, std::memory_order_release);
  Futex(layout_->submissions, FUTEX_WAKE, INT_MAX, nullptr);
}

void Journal::Abandon(uint32_t index) {
  layout_->slots[index].Abandon(layout_->next_ticket.fetch_add(1, std::memory_order_relaxed));
  Resubmit(index);
}

void Journal::MarkFinished(uint32_t index) {
  layout_->finished[index / 64].fetch_or(uint64_t{1} << index % 64, std::memory_order_release);
}

void Journal::ForgetTouched(uint32_t entry) {
  const std::span<std::atomic<uint64_t>> words =
      std::span(layout_->present[entry].words).subspan(kTouchedFrom);
  const auto offset = reinterpret_cast<const char*>(words.data()) - reinterpret_cast<const char*>(layout_);
  // Rather than zeros, which take up memory.
  if (fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                static_cast<off_t>(words.size_bytes())) == 0)
    return;
  for (std::atomic<uint64_t>& word : words) word.store(0, std::memory_order_relaxed);
}

void Journal::NoteObjectChange() {
  layout_->object_changes.fetch_add(1, std::memory_order_release);
  Futex(layout_->object_changes, FUTEX_WAKE, INT_MAX, nullptr);
}

void Journal::WaitForSubmission(uint32_t seen, int timeout_ms) const {
  const timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
  Futex(layout_->submissions, FUTEX_WAIT, seen, &timeout);
}

void Journal::WaitForObjectChange(uint32_t seen, int timeout_ms) const {
  const timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
  Futex(layout_->object_changes, FUTEX_WAIT, seen, &timeout);
}

}  // namespace sluice::keeper
