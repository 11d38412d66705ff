#include "ondemand/keeper/cachefiles/cachefiles_door.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>
#include <variant>

#include "ondemand/keeper/cachefiles/kernel_copies.h"
#include "ondemand/keeper/log.h"
#include "ondemand/keeper/wire.h"

namespace sluice::keeper {
namespace {

// Requests read at once, before other work has its turn.
constexpr int kRequestsAtOnce = 64;
// Of one ticket. What the kernel wants beyond it asks for again.
constexpr uint64_t kReadBytesMax = 8 << 20;
// At the end: what is left then, the kernel fails itself when the device is closed.
constexpr uint64_t kErrorsAtEndMax = 64;
// Of a slot whose request is answered, or that the kernel does not know any more.
constexpr uint64_t kNoRequest = ~uint64_t{0};
constexpr int64_t kRestorePauseNs = 50'000'000;

std::string NameOf(const BlobRecord& record) {
  return std::string(record.name, kBlobNameLength);
}

// Those in the record of a mount, or of one that is about to be made.
template <typename Visit>
void ForEachName(const JournalLayout& layout, const MountRecord& image, Visit visit) {
  const std::string volume = image.domain[0] != 0 ? image.domain : image.fsid;
  visit(std::pair(volume, std::string(image.fsid)), image.bootstrap);
  for (uint32_t i = 0; i < std::min(image.device_count, kDevicesMax); ++i) {
    if (image.devices[i] < kBlobsMax)
      visit(std::pair(volume, NameOf(layout.blobs[image.devices[i]])), image.devices[i]);
  }
}

}  // namespace

CachefilesDoor::CachefilesDoor(Journal& journal, CachefilesCache cache, int completions,
                               std::vector<KeptObject> kept)
    : Door(journal, {cache.device->fd(), cache.directory.get(), cache.store.get()}, completions),
      cache_(std::move(cache)),
      sizes_(kBlobsMax),
      objects_(kObjectsMax) {
  for (KeptObject& object : kept) {
    if (object.index < kObjectsMax &&
        journal.layout().object_generations[object.index].load() == object.generation) {
      objects_[object.index].file = std::move(object.file);
    }
  }
}

// ------------------------------------------------------------------------------------ blobs and images

Outcome CachefilesDoor::Guard(uint32_t entry) {
  CallOnThread([=, this] { sizes_[entry] = journal_.layout().blobs[entry].size; });
  return {};
}

void CachefilesDoor::Forget(uint32_t entry) {
  CallOnThread([=, this] { sizes_[entry] = 0; });
}

void CachefilesDoor::AddImage(const MountRecord& image) {
  CallOnThread([&] { ChangeRegistrations(image, 1); });
}

void CachefilesDoor::RemoveImage(const MountRecord& image) {
  CallOnThread([&] { ChangeRegistrations(image, -1); });
}

void CachefilesDoor::ChangeRegistrations(const MountRecord& image, int by) {
  ForEachName(journal_.layout(), image, [&](const Names& names, uint32_t blob) {
    Registration& registration = registrations_[names];
    registration.blob = blob;
    registration.images += static_cast<uint32_t>(by);
    if (registration.images == 0) registrations_.erase(names);
  });
}

size_t CachefilesDoor::FilesNotOpen(const MountRecord& image) {
  size_t missing = 0;
  CallOnThread([&] {
    std::set<Names> open;
    for (const auto& [number, place] : places_) {
      if (objects_[place].file.valid()) open.insert(objects_[place].names);
    }
    ForEachName(journal_.layout(), image,
                [&](const Names& names, uint32_t) { missing += open.contains(names) ? 0 : 1; });
  });
  return missing;
}

size_t CachefilesDoor::CopiesWithoutName(const MountRecord& image) {
  size_t missing = 0;
  std::set<std::string> files;
  std::string listed;
  ForEachName(journal_.layout(), image, [&](const Names& names, uint32_t) {
    if (std::exchange(listed, names.first) != names.first || files.empty())
      files = FilesOfVolume(cache_.directory.get(), names.first);
    missing += files.contains(CopyFileName(names.second)) ? 0 : 1;
  });
  return missing;
}

// A name that no image has told of may be of one that a dead keeper was mounting. Who refuses the kernel's
// second opening of such an object is asked again and again; our names begin with what they name.
std::optional<uint32_t> CachefilesDoor::Find(const CachefilesOpen& open) const {
  if (!open.volume_key.starts_with(kErofsVolumePrefix)) return std::nullopt;
  const std::string volume(open.volume_key.substr(kErofsVolumePrefix.size()));
  const auto found = registrations_.find({volume, std::string(open.cookie_key)});
  if (found != registrations_.end()) {
    const uint32_t blob = found->second.blob;
    return blob < kBlobsMax && sizes_[blob] != 0 ? std::optional(blob) : std::nullopt;
  }
  for (uint32_t blob = 0; adopted_ && blob < kBlobsMax; ++blob) {
    if (sizes_[blob] != 0 && open.cookie_key.starts_with(NameOf(journal_.layout().blobs[blob]))) return blob;
  }
  return std::nullopt;
}

// ---------------------------------------------------------------------------------------- the requests

void CachefilesDoor::ReadRequests() {
  for (int i = 0; i < kRequestsAtOnce && ReadRequest(false); ++i) {
  }
}

bool CachefilesDoor::ReadRequest(bool refuse) {
  char* inbox = journal_.layout().inbox;
  const ssize_t length = cache_.device->Read({inbox, kCachefilesMessageBytesMax});
  if (length == 0 || (length < 0 && (errno == EAGAIN || errno == EINTR))) return false;
  if (length < 0) {
    // The kernel has refused it itself.
    Log("a request of the kernel's cache was lost: %s", std::strerror(errno));
    CountOne(counters_.errors);
    return true;
  }
  const auto message = ParseCachefilesMessage(std::as_bytes(std::span(inbox, static_cast<size_t>(length))));
  if (message.has_value()) {
    Handle(*message, refuse);
  } else {
    CountOne(counters_.errors);
  }
  ClearInbox();
  return true;
}

void CachefilesDoor::ClearInbox() {
  auto& length = *reinterpret_cast<uint32_t*>(journal_.layout().inbox + offsetof(cachefiles_msg, len));
  std::atomic_ref<uint32_t>(length).store(0, std::memory_order_release);
}

void CachefilesDoor::Handle(const CachefilesMessage& message, bool refuse) {
  const CachefilesHeader& header = message.header;
  if (const auto* open = std::get_if<CachefilesOpen>(&message.body)) {
    Open(header, *open, refuse);
  } else if (std::holds_alternative<CachefilesClose>(message.body)) {
    Close(header);
  } else if (const auto* read = std::get_if<CachefilesRead>(&message.body)) {
    Read(header, *read, refuse);
  } else {
    Reject(header, std::get<CachefilesMalformed>(message.body));
  }
}

// Who waits for this answer can't even be killed: it is always given, and at once.
void CachefilesDoor::Open(const CachefilesHeader& header, const CachefilesOpen& open, bool refuse) {
  fcntl(open.fd, F_SETFD, FD_CLOEXEC);
  const std::optional<uint32_t> blob = refuse ? std::nullopt : Find(open);
  if (!blob) {
    CountOne(counters_.denied);
    return RefuseOpen(header, open.fd, ENOENT);
  }
  Names names{std::string(open.volume_key.substr(kErofsVolumePrefix.size())), std::string(open.cookie_key)};
  const uint32_t place = PlaceFor(names);
  if (place == kObjectsMax) {
    Log("the kernel has %u objects open, the most there can be", kObjectsMax);
    CountOne(counters_.denied);
    return RefuseOpen(header, open.fd, ENFILE);
  }
  // One that is opened again: the old descriptor is of no use any more.
  if (objects_[place].file.valid()) Withdraw(place);
  Object object{Descriptor(open.fd), header.object, *blob, std::move(names)};
  if (!ProveCopyOf(object.names)) return RefuseOpen(header, object.file.release(), EIO);
  Result<std::string> answer = CopenCommand(header.id, sizes_[*blob]);
  if (!answer.ok()) return RefuseOpen(header, object.file.release(), EFBIG);
  if (Outcome opened = Command(answer.value()); !opened.ok()) {
    // The kernel has given it up meanwhile.
    Log("%s", opened.error().text.c_str());
    CountOne(counters_.errors);
    return;
  }
  Publish(place, object);
  objects_[place] = std::move(object);
}

bool CachefilesDoor::ProveCopyOf(const Names& names) {
  const Result<CopyFound> found = ProveCopy(cache_.directory.get(), names.first, names.second);
  if (!found.ok()) {
    Log("%s; who opens it gets an error, as nothing proves what is in it", found.error().text.c_str());
    CountOne(counters_.errors);
    return false;
  }
  if (found.value() == CopyFound::kForeign)
    Log("the kernel's copy of %s is not the file that was made here (put back by a backup?): emptied, to be "
        "filled anew",
        names.second.c_str());
  return true;
}

void CachefilesDoor::RefuseOpen(const CachefilesHeader& header, int fd, int error) {
  if (fd >= 0) close(fd);
  if (!Command(CopenErrorCommand(header.id, error)).ok()) CountOne(counters_.errors);
}

// EIO says that the cache is dead: the file system under it has failed. Nothing but a new binding brings it
// back.
Outcome CachefilesDoor::Command(const std::string& command) {
  Outcome done = cache_.device->Command(command);
  if (!done.ok() && done.error().code == EIO && !dead_.exchange(true)) {
    Log("the kernel has given its cache up: unmount all images, then restart sluiced");
    journal_.layout().broken.store(EIO);
  }
  return done;
}

Outcome CachefilesDoor::Prove() {
  if (!dead_.load()) return {};
  return Error{
      EIO, "the kernel has given its cache up after an I/O error: unmount all images, then restart sluiced"};
}

uint32_t CachefilesDoor::PlaceFor(const Names& names) {
  std::vector<bool> wanted(kObjectsMax, false);
  ForEachHeld([&](uint32_t, const SlotRead& read) { wanted[read.object % kObjectsMax] = true; });
  uint32_t free = kObjectsMax;
  for (uint32_t i = 0; i < kObjectsMax; ++i) {
    if (objects_[i].names == names) return i;
    if (free == kObjectsMax && !objects_[i].file.valid() && !wanted[i]) free = i;
  }
  return free;
}

// From here on the daemon can ask for it.
void CachefilesDoor::Publish(uint32_t index, const Object& object) {
  ObjectRecord& record = journal_.layout().objects[index];
  record.blob = object.blob;
  record.blob_generation = journal_.layout().blobs[object.blob].generation;
  record.object = object.number;
  record.volume_length = static_cast<uint32_t>(object.names.first.copy(record.volume, kCacheKeyMax));
  record.cookie_length = static_cast<uint32_t>(object.names.second.copy(record.cookie, kCacheKeyMax));
  journal_.layout().object_generations[index].fetch_add(1, std::memory_order_release);
  places_[object.number] = index;
  open_objects_.fetch_add(1);
  journal_.NoteObjectChange();
}

// Also the daemon's duplicate must go: until then the kernel keeps the object's volume, and whoever mounts it
// again waits.
void CachefilesDoor::Withdraw(uint32_t index) {
  places_.erase(objects_[index].number);
  if (objects_[index].file.valid()) open_objects_.fetch_sub(1);
  objects_[index] = {};
  journal_.layout().object_generations[index].fetch_add(1, std::memory_order_release);
  journal_.NoteObjectChange();
}

void CachefilesDoor::Close(const CachefilesHeader& header) {
  const auto found = places_.find(header.object);
  if (found == places_.end()) return;  // closed already
  const uint32_t index = found->second;
  GiveUpReadsOf(index);
  Withdraw(index);
}

void CachefilesDoor::GiveUpReadsOf(uint32_t index) {
  ForEachHeld([&](uint32_t slot, const SlotRead& read) {
    if (read.object == index) GiveUp(slot);
  });
  const uint32_t number = objects_[index].number;
  std::erase_if(overflow_, [number](const Parked& parked) { return parked.message.header.object == number; });
}

void CachefilesDoor::Read(const CachefilesHeader& header, const CachefilesRead& wanted, bool refuse) {
  const auto found = places_.find(header.object);
  if (found == places_.end()) return refuse ? CountOne(counters_.denied) : OnUnknownObject(header);
  const Object& object = objects_[found->second];
  const uint64_t size = sizes_[object.blob];
  const auto held = slots_.find(header.id);
  // Its entry may have been given to another blob since the object was opened.
  const JournalLayout& layout = journal_.layout();
  const bool gone = layout.objects[found->second].blob_generation != layout.blobs[object.blob].generation;
  if (refuse || gone || wanted.offset >= size || overflow_.size() >= kSlotsMax) {
    CountOne(counters_.denied);
    // The entry may be another blob's.
    if (gone) CountFailed(journal_.layout(), kNoBlob, Refusal::kFileChanged);
    if (!gone && wanted.offset < size) CountFailed(journal_.layout(), object.blob, Refusal::kNoSlot);
    return Complete(object.file.get(), header.id);
  }
  if (!HasFreeSlot() && held == slots_.end()) {
    overflow_.push_back({{header, wanted}, NowNs() + journal_.layout().read_deadline_ns.load()});
    return;
  }
  SlotRead read;
  read.blob = object.blob;
  read.request = header.id;
  read.object = found->second;
  read.object_generation = journal_.layout().object_generations[found->second].load();
  read.offset = wanted.offset;
  read.length = std::min({wanted.length, size - wanted.offset, kReadBytesMax});
  if (held != slots_.end()) {
    // Sent again (restore), or another under a number that the kernel had taken back: the old one's reader is
    // dead, and its answer must not be taken for this one's.
    const SlotRead& old = ReadOf(held->second);
    if (old.object == read.object && old.offset == read.offset && old.length == read.length) return;
    const uint32_t slot = held->second;
    slots_.erase(held);
    Renumber(slot, kNoRequest);
    GiveUp(slot);
    if (!HasFreeSlot()) return Complete(object.file.get(), header.id);
  }
  if (FailsAgain(read)) {
    CountOne(counters_.denied);
    return Complete(object.file.get(), header.id);
  }
  slots_[header.id] = Door::Publish(read);
}

// Our last descriptor of it went with a predecessor. The kernel opens it anew when the daemon too has let go,
// and the request is sent again.
void CachefilesDoor::OnUnknownObject(const CachefilesHeader& header) {
  CountOne(counters_.denied);
  Log("the kernel reads from object %u, which is not open", header.object);
  // Kernels that check nothing take any descriptor for the answer.
  for (const Object& object : objects_) {
    if (!object.file.valid()) continue;
    if (cache_.device->CompleteRead(object.file.get(), header.id).ok()) return;
    break;
  }
  Restore();
}

// All that is in flight comes again: not more often than is of use.
void CachefilesDoor::Restore() {
  const int64_t now_ns = NowNs();
  if (now_ns - restored_ns_ < kRestorePauseNs) return SetTimer(restored_ns_ + kRestorePauseNs);
  restored_ns_ = now_ns;
  const Outcome restored = Command(std::string(kRestoreCommand));
  if (!restored.ok()) Log("requests stay unanswered: %s", restored.error().text.c_str());
}

void CachefilesDoor::OnTimer() {
  Restore();
}

void CachefilesDoor::AfterRound() {
  const int64_t now_ns = overflow_.empty() ? 0 : NowNs();
  while (!overflow_.empty()) {
    const Parked next = overflow_.front();
    // Without a slot that comes free by itself there is nothing to wait for.
    const bool refuse = next.deadline_ns <= now_ns || !SlotsComeFree();
    if (!refuse && !HasFreeSlot()) return;
    overflow_.pop_front();
    Handle(next.message, refuse);
  }
}

void CachefilesDoor::Reject(const CachefilesHeader& header, const CachefilesMalformed& malformed) {
  Log("a request of the kernel's cache (%u, kind %u) is not understood: %s", header.id, header.opcode,
      malformed.reason);
  CountOne(counters_.errors);
  const auto found = places_.find(header.object);
  if (header.opcode == CACHEFILES_OP_READ && found != places_.end()) {
    Complete(objects_[found->second].file.get(), header.id);
  } else if (header.opcode != CACHEFILES_OP_CLOSE) {
    RefuseOpen(header, malformed.fd, header.opcode == CACHEFILES_OP_OPEN ? EINVAL : EOPNOTSUPP);
  }
}

void CachefilesDoor::RefuseQueued() {
  for (const Parked& parked : overflow_) Handle(parked.message, true);
  overflow_.clear();
  const uint64_t errors = counters_.errors.load();
  while (counters_.errors.load() - errors < kErrorsAtEndMax && ReadRequest(true)) {
  }
}

// ------------------------------------------------------------------------------------------ the answers

// An answer without bytes is the only way to say no: what is a hole still, the kernel gives the reader EIO
// for. Only once: the kernel may give the number to another READ from then on, and the slot may be held for
// long after its deadline.
Door::Answered CachefilesDoor::Answer(uint32_t index, const SlotRead& read, int) {
  if (read.request == kNoRequest) return Answered::kNow;
  const auto id = static_cast<uint32_t>(read.request);
  const auto held = slots_.find(id);
  if (held == slots_.end() || held->second != index) return Answered::kNow;
  slots_.erase(held);
  if (read.object < kObjectsMax && objects_[read.object].file.valid())
    Complete(objects_[read.object].file.get(), id);
  Renumber(index, kNoRequest);
  return Answered::kNow;
}

void CachefilesDoor::Complete(int file, uint32_t id) {
  const Outcome completed = cache_.device->CompleteRead(file, id);
  // EINVAL: its reader was killed meanwhile.
  if (!completed.ok() && completed.error().code != EINVAL) CountOne(counters_.errors);
}

// ------------------------------------------------------------------------------------ the daemon's line

void CachefilesDoor::Connect(Descriptor objects) {
  CallOnThread([&] {
    line_ = std::move(objects);
    if (!line_.valid()) return;
    fcntl(line_.get(), F_SETFL, O_NONBLOCK);
    WatchDescriptor(line_.get());
  });
}

void CachefilesDoor::OnReadable(int fd) {
  if (fd != line_.get()) return;
  ObjectRequest request;
  const ssize_t length = recv(fd, &request, sizeof(request), MSG_DONTWAIT);
  if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (length != sizeof(request)) {
    line_.reset();
    return;
  }
  ObjectReply reply{request.index, request.generation, ESTALE};
  const bool known = request.index < kObjectsMax && objects_[request.index].file.valid() &&
                     journal_.layout().object_generations[request.index].load() == request.generation;
  const int file = known ? objects_[request.index].file.get() : -1;
  if (known) reply.error = 0;
  const std::span<const int> descriptors(&file, known ? 1 : 0);
  // The daemon asks one thing at a time, so there is room for the answer.
  if (!SendMessage(fd, BytesOf(reply), descriptors).ok()) CountOne(counters_.errors);
}

std::vector<HeldObject> CachefilesDoor::Objects() const {
  std::vector<HeldObject> held;
  for (uint32_t i = 0; i < kObjectsMax; ++i) {
    if (objects_[i].file.valid())
      held.push_back({i, journal_.layout().object_generations[i].load(), objects_[i].file.get()});
  }
  return held;
}

// -------------------------------------------------------------------------------------- a keeper has died

void CachefilesDoor::AdoptOthers() {
  adopted_ = true;
  const JournalLayout& layout = journal_.layout();
  for (uint32_t entry = 0; entry < kBlobsMax; ++entry) {
    if (layout.blobs[entry].in_use.load() != 0) sizes_[entry] = layout.blobs[entry].size;
  }
  for (const MountRecord& image : layout.mounts) {
    if (image.in_use != 0) ChangeRegistrations(image, 1);
  }
  for (uint32_t i = 0; i < kObjectsMax; ++i) {
    const ObjectRecord& record = layout.objects[i];
    if (!ObjectIsOpen(layout.object_generations[i].load())) {
      objects_[i] = {};
      continue;
    }
    Object& object = objects_[i];
    object.blob = std::min(record.blob, kBlobsMax - 1);
    object.number = record.object;
    object.names = {std::string(record.volume, std::min(record.volume_length, kCacheKeyMax)),
                    std::string(record.cookie, std::min(record.cookie_length, kCacheKeyMax))};
    if (object.file.valid()) {
      places_[object.number] = i;
      open_objects_.fetch_add(1);
    } else {
      // It has gone with its last descriptor, but for the daemon's perhaps, which must go too. The kernel
      // opens it again when it is read from.
      journal_.layout().object_generations[i].fetch_add(1);
      journal_.NoteObjectChange();
    }
  }
  journal_.NoteObjectChange();
  // A slot that waits for the daemon after its deadline comes last: the number may be another READ's by now.
  for (const bool waiting : {true, false}) {
    ForEachHeld([&](uint32_t slot, const SlotRead& read) {
      const SlotState state = journal_.slots()[slot].word().state();
      const bool over = state == SlotState::kExpired || state == SlotState::kReleased;
      if (over == waiting || read.request > UINT32_MAX) return;
      slots_.try_emplace(static_cast<uint32_t>(read.request), slot);
    });
  }
  HandleInbox();
  // Whatever was on its way to the predecessor comes again.
  Restore();
}

// The request that the predecessor had read last. An OPEN's descriptor has gone with it.
void CachefilesDoor::HandleInbox() {
  const char* inbox = journal_.layout().inbox;
  cachefiles_msg header{};
  std::memcpy(&header, inbox, sizeof(header));
  if (header.len < sizeof(header) || header.len > kCachefilesMessageBytesMax) return;
  const auto message = ParseCachefilesMessage(std::as_bytes(std::span(inbox, header.len)));
  if (message.has_value() && (std::holds_alternative<CachefilesClose>(message->body) ||
                              std::holds_alternative<CachefilesRead>(message->body))) {
    Handle(*message, false);
  }
  ClearInbox();
}

}  // namespace sluice::keeper
