#include "ondemand/keeper/fanotify/fanotify_door.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ondemand/keeper/fanotify/fanotify_uapi.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

constexpr uint32_t kRefuse = FAN_DENY_ERRNO(EIO);
// Room for one event with its range record but not for two: an event that was read is in the journal or
// answered before the next one is read.
constexpr size_t kEventBytesMax = sizeof(fanotify_event_metadata) + sizeof(RangeRecord) + 16;

const RangeRecord* RangeOf(const fanotify_event_metadata& event) {
  if (event.event_len < event.metadata_len + sizeof(RangeRecord)) return nullptr;
  const auto* record =
      reinterpret_cast<const RangeRecord*>(reinterpret_cast<const char*>(&event) + event.metadata_len);
  return record->header.info_type == FAN_EVENT_INFO_TYPE_RANGE ? record : nullptr;
}

int NumberOf(const SlotRead& read) {
  return static_cast<int>(read.request);
}

FileId FileOf(const BlobRecord& record) {
  return {record.device, record.inode};
}

std::string NameOf(const BlobRecord& record) {
  return std::string(record.name, kBlobNameLength);
}

}  // namespace

FanotifyDoor::FanotifyDoor(Journal& journal, Watch watch, int completions)
    : Door(journal, {watch.group.get(), watch.tree.get(), watch.store.get()}, completions),
      watch_(std::move(watch)) {}

Outcome FanotifyDoor::Guard(uint32_t entry) {
  CallOnThread([=, this] { Insert(entry); });
  return {};
}

Outcome FanotifyDoor::WatchOrphaned(const BlobRecord& record) {
  return WatchFile(watch_, NameOf(record), FileOf(record));
}

void FanotifyDoor::Insert(uint32_t entry) {
  const BlobRecord& record = journal_.layout().blobs[entry];
  blobs_.Insert({FileOf(record), entry, record.chunk_shift, record.size});
}

void FanotifyDoor::Forget(uint32_t entry) {
  const BlobRecord& record = journal_.layout().blobs[entry];
  if (record.orphaned.load() != 0) (void)UnwatchFile(watch_, NameOf(record), FileOf(record));
  CallOnThread([=, this] {
    blobs_.Erase(FileOf(journal_.layout().blobs[entry]));
    RefuseReadsOf(entry);
  });
}

Outcome FanotifyDoor::MarkComplete(const BlobRecord& record) {
  return SetIgnoreMark(watch_, NameOf(record), FileOf(record));
}

Outcome FanotifyDoor::ClearComplete(const BlobRecord& record) {
  Outcome cleared = ClearIgnoreMark(watch_, NameOf(record), FileOf(record));
  if (cleared.ok()) return cleared;
  // Somebody removed or replaced the file. An image reads from it still, and nobody can name it: all marks
  // are taken off, and those of other blobs set anew. Meanwhile their reads only ask more often than they
  // must.
  if (Outcome all = ClearAllIgnoreMarks(watch_); !all.ok()) return all;
  // First those whose reads pass unasked without their own mark.
  for (const BlobRecord& other : journal_.layout().blobs) {
    if (&other == &record || other.in_use.load() == 0 || other.orphaned.load() == 0) continue;
    if (Outcome watched = WatchFile(watch_, NameOf(other), FileOf(other)); !watched.ok())
      Log("a blob is not guarded any more: %s", watched.error().text.c_str());
  }
  for (BlobRecord& other : journal_.layout().blobs) {
    if (&other == &record || other.in_use.load() == 0 || other.complete.load() == 0) continue;
    if (!MarkComplete(other).ok()) other.complete.store(0);
  }
  return {};
}

Outcome FanotifyDoor::Prove() {
  return ProveWatch(watch_, counters_.canaries);
}

void FanotifyDoor::ReadRequests() {
  alignas(fanotify_event_metadata) char buffer[kEventBytesMax];
  ssize_t length = read(kernel_.requests, buffer, sizeof(buffer));
  if (length < 0) {
    // The kernel has refused the read already if it found no descriptor for its event.
    if (errno != EAGAIN && errno != EINTR) CountOne(counters_.errors);
    return;
  }
  const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
  for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) HandleEvent(*event);
}

void FanotifyDoor::HandleEvent(const fanotify_event_metadata& event) {
  if (event.fd < 0) {
    CountOne(counters_.errors);
    return;
  }
  SlotRead read;
  const Lookup found = Classify(event, read);
  if (found == Lookup::kAbsent && journal_.layout().blobs[read.blob].orphaned.load() != 0 &&
      IsOurDaemons(event.pid)) {
    // It fills the hole, or looks whether it is one.
    Respond(event.fd, 0);
    close(event.fd);
    return;
  }
  if (found == Lookup::kAbsent && HasFreeSlot() && !FailsAgain(read)) {
    Publish(read);
    return;
  }
  if (found == Lookup::kPresent) {
    CountHit(read);
    Respond(event.fd, 0);
  } else {
    CountOne(counters_.denied);
    // One that fails again has counted before.
    if (found == Lookup::kChanged) Failed(read, Refusal::kFileChanged);
    if (found == Lookup::kAbsent && !HasFreeSlot()) Failed(read, Refusal::kNoSlot);
    Respond(event.fd, EIO);
  }
  close(event.fd);
}

bool FanotifyDoor::IsOurDaemons(int32_t thread) const {
  const int32_t daemon = journal_.layout().daemon_pid.load();
  if (daemon <= 0 || thread <= 0) return false;
  const std::string path = "/proc/" + std::to_string(daemon) + "/task/" + std::to_string(thread);
  return access(path.c_str(), F_OK) == 0;
}

FanotifyDoor::Lookup FanotifyDoor::Classify(const fanotify_event_metadata& event, SlotRead& read) {
  struct stat status {};
  if (event.vers != FANOTIFY_METADATA_VERSION || fstat(event.fd, &status) != 0) return Lookup::kRefused;
  const FileId file{status.st_dev, status.st_ino};
  const InodeTable::Blob* blob = blobs_.Find(file);
  if (blob == nullptr) {
    if (file == watch_.canary) CountOne(counters_.canaries);
    return Lookup::kRefused;
  }
  read.blob = blob->entry;
  // Somebody cut or deleted the file: what the bits say is not true of it any more.
  if (static_cast<uint64_t>(status.st_size) != blob->size || status.st_nlink == 0) return Lookup::kChanged;

  const RangeRecord* range = RangeOf(event);
  const uint64_t offset = range != nullptr ? range->offset : 0;
  if (offset >= blob->size) return Lookup::kRefused;
  const uint64_t left = blob->size - offset;
  const uint64_t length =
      range != nullptr && range->count != 0 ? std::min<uint64_t>(range->count, left) : left;
  read.request = static_cast<uint64_t>(event.fd);
  read.pid = event.pid;
  read.offset = offset;
  read.length = length;
  return AllPresent(blob->entry, blob->chunk_shift, offset, length) ? Lookup::kPresent : Lookup::kAbsent;
}

Door::Answered FanotifyDoor::Answer(uint32_t, const SlotRead& read, int verdict) {
  Respond(NumberOf(read), verdict);
  return Answered::kNow;
}

void FanotifyDoor::Respond(int event_fd, int verdict) {
  const fanotify_response answer{event_fd, verdict == 0 ? static_cast<uint32_t>(FAN_ALLOW) : kRefuse};
  // ENOENT: the reader was killed meanwhile.
  if (write(kernel_.requests, &answer, sizeof(answer)) < 0 && errno != ENOENT) CountOne(counters_.errors);
}

void FanotifyDoor::LetGo(const SlotRead& read) {
  close(NumberOf(read));
}

// Events that the predecessor had read and not yet written down, or written off but not yet answered.
void FanotifyDoor::AdoptOthers() {
  std::vector<bool> named(journal_.layout().descriptor_limit, false);
  ForEachHeld([&](uint32_t, const SlotRead& read) { named[static_cast<size_t>(NumberOf(read))] = true; });
  uint32_t refused = 0;
  for (uint32_t number = 0; number < named.size(); ++number) {
    if (named[number]) continue;
    const fanotify_response answer{static_cast<int>(number), kRefuse};
    if (write(kernel_.requests, &answer, sizeof(answer)) > 0) ++refused;
  }
  if (refused > 0) Log("refused %u reads that nobody knows", refused);
  for (uint32_t entry = 0; entry < kBlobsMax; ++entry) {
    if (journal_.layout().blobs[entry].in_use.load() != 0) Insert(entry);
  }
}

void FanotifyDoor::RefuseQueued() {
  alignas(fanotify_event_metadata) char buffer[kEventBytesMax];
  ssize_t length;
  while ((length = read(kernel_.requests, buffer, sizeof(buffer))) > 0) {
    const auto* event = reinterpret_cast<const fanotify_event_metadata*>(buffer);
    for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
      if (event->fd < 0) continue;
      Respond(event->fd, EIO);
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
    if (slot.word().state() == SlotState::kFree) continue;
    const uint64_t named = slot.read.request;
    const int number = NumberOf(slot.read);
    if (named <= STDERR_FILENO || named >= static_cast<uint64_t>(limit) || number == high.get() ||
        fcntl(number, F_GETFD) >= 0) {
      return Error{EPROTO, "the journal names descriptor " + std::to_string(named) + ", which is in use"};
    }
    if (dup3(high.get(), number, O_CLOEXEC) < 0) return ErrnoError("reserve an event number");
  }
  return {};
}

}  // namespace sluice::keeper
