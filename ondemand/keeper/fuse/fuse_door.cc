#include "ondemand/keeper/fuse/fuse_door.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/log.h"

namespace sluice::keeper {
namespace {

// What Debian 12's <linux/fuse.h> lacks.
constexpr int kNotifyResend = 7;                       // FUSE_NOTIFY_RESEND, Linux 6.9
constexpr uint64_t kUniqueResend = uint64_t{1} << 63;  // FUSE_UNIQUE_RESEND
constexpr uint32_t kOpenNoFlush = 1 << 5;              // FOPEN_NOFLUSH, Linux 5.16

constexpr uint32_t kPageBytes = 4096;
// Of writes, that never come. The kernel wants room for the longest request it may send.
constexpr uint32_t kWriteBytesMax = 4096;
// Requests that nobody waits for yet (readahead). As many as there are slots: a blob whose source stalls must
// not use up what the others need.
constexpr uint16_t kBackgroundMax = 16384;
constexpr uint64_t kAttributesValidS = 24 * 3600;
constexpr useconds_t kBrokenPauseUs = 100'000;
constexpr int kReplierThreads = 2;
constexpr size_t kStatusBytesMax = 4096;
constexpr uint32_t kNodeEntryBits = 16;
static_assert(kBlobsMax <= 1u << kNodeEntryBits);

// An entry that is used again is another node: what the kernel remembers of the old one is not true of it.
uint64_t NodeOf(uint32_t entry, uint32_t generation) {
  return uint64_t{generation} << kNodeEntryBits | entry;
}

uint64_t RoundUp(uint64_t size) {
  return (size + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// Whether SIGKILL waits for the thread: what a killed process's threads have, whichever signal killed it.
bool IsDying(int32_t thread) {
  const std::string path = "/proc/" + std::to_string(thread) + "/status";
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return thread > 0 && errno == ENOENT;
  char text[kStatusBytesMax + 1];
  const ssize_t length = read(file.get(), text, kStatusBytesMax);
  if (length <= 0) return false;
  text[length] = 0;
  for (const char* label : {"\nSigPnd:", "\nShdPnd:"}) {
    const char* line = std::strstr(text, label);
    if (line == nullptr) continue;
    const uint64_t pending = std::strtoull(line + std::strlen(label), nullptr, 16);
    if ((pending >> (SIGKILL - 1) & 1) != 0) return true;
  }
  return false;
}

template <typename T>
const T* Cast(std::span<const std::byte> body) {
  return body.size() >= sizeof(T) ? reinterpret_cast<const T*>(body.data()) : nullptr;
}

}  // namespace

FuseDoor::FuseDoor(Journal& journal, FuseMount mount, int completions)
    : Door(journal, {mount.device.get(), mount.tree.get(), mount.store.get()}, completions),
      mount_(std::move(mount)),
      blobs_(kBlobsMax),
      replier_(mount_.device.get()),
      replied_(kSlotsMax / 64) {
  for (int i = 0; i < kReplierThreads; ++i) repliers_.emplace_back([this] { WorkReplies(); });
}

FuseDoor::~FuseDoor() {
  {
    const std::lock_guard lock(replies_mutex_);
    replies_stop_ = true;
  }
  replies_wake_.notify_all();
  for (std::thread& thread : repliers_) thread.join();
  Stop();
}

// ------------------------------------------------------------------------------------------- the blobs

Result<FuseDoor::Blob> FuseDoor::Load(uint32_t entry) const {
  const BlobRecord& record = journal_.layout().blobs[entry];
  Result<Descriptor> file = OpenIfSame(mount_.store.get(), std::string(record.name, kBlobNameLength),
                                       {record.device, record.inode});
  if (!file.ok()) return file.error();
  return Blob{NodeOf(entry, record.generation), record.size, record.chunk_shift, std::move(file.value())};
}

Outcome FuseDoor::Guard(uint32_t entry) {
  Result<Blob> blob = Load(entry);
  if (!blob.ok()) return blob.error();
  CallOnThread([&] { blobs_[entry] = std::move(blob.value()); });
  return {};
}

void FuseDoor::Forget(uint32_t entry) {
  Blob gone;
  CallOnThread([&] {
    gone = std::exchange(blobs_[entry], {});
    RefuseReadsOf(entry);
  });
}

// By way of the attributes: the next read asks for them and finds that the file has changed. To have the
// kernel drop the pages at once would be to wait for those that are being read, where a keeper that is killed
// can't die; and so nobody would answer these reads.
Outcome FuseDoor::ClearComplete(const BlobRecord& record) {
  const auto entry = static_cast<uint32_t>(&record - journal_.layout().blobs);
  journal_.layout().blobs[entry].revision.fetch_add(1);
  struct {
    fuse_out_header header;
    fuse_notify_inval_inode_out inode;
  } notice{};
  notice.header.len = sizeof(notice);
  notice.header.error = FUSE_NOTIFY_INVAL_INODE;
  notice.inode.ino = NodeOf(entry, record.generation);
  notice.inode.off = -1;
  // ENOENT: it has no such file cached. ENODEV, ECONNABORTED: nobody reads anything any more.
  if (write(kernel_.requests, &notice, sizeof(notice)) >= 0) return {};
  if (errno == ENOENT || errno == ENODEV || errno == ECONNABORTED || errno == ENOTCONN) return {};
  return ErrnoError("tell the kernel that a blob has changed");
}

const FuseDoor::Blob* FuseDoor::Find(uint64_t node) const {
  const uint64_t entry = node & ((1u << kNodeEntryBits) - 1);
  if (entry >= blobs_.size() || blobs_[entry].node != node || node == 0) return nullptr;
  return &blobs_[entry];
}

// Whether nobody has cut or deleted the file: else what the bits say is not true of it any more.
bool FuseDoor::FileIsWhole(const Blob& blob) const {
  struct stat status {};
  return fstat(blob.file.get(), &status) == 0 && static_cast<uint64_t>(status.st_size) == blob.size &&
         status.st_nlink > 0;
}

fuse_attr FuseDoor::AttributesOf(const Blob& blob) const {
  fuse_attr attributes{};
  attributes.ino = blob.node;
  // Whole pages, so that a loop device on the file does not cut its tail off.
  attributes.size = RoundUp(blob.size);
  attributes.blocks = attributes.size / 512;
  const auto entry = static_cast<size_t>(&blob - blobs_.data());
  attributes.mtime = journal_.layout().blobs[entry].revision.load();
  attributes.mode = S_IFREG | 0400;
  attributes.nlink = 1;
  attributes.blksize = kPageBytes;
  return attributes;
}

// ---------------------------------------------------------------------------------------- the requests

void FuseDoor::ReadRequests() {
  ReadRequest(false);
}

bool FuseDoor::ReadRequest(bool refuse) {
  char* inbox = journal_.layout().inbox;
  const ssize_t length = read(kernel_.requests, inbox, kInboxBytes);
  if (length < 0) {
    // ENOENT: the request was given up while we read it.
    if (errno == ENOENT) return true;
    if (errno != EAGAIN && errno != EINTR) OnBroken(errno);
    return false;
  }
  const std::span<const std::byte> request = TakeInbox(static_cast<size_t>(length));
  const auto* header = Cast<fuse_in_header>(request);
  if (header == nullptr || header->len != request.size()) {
    CountOne(counters_.errors);
  } else if (refuse) {
    Refuse(*header);
  } else {
    Handle(*header, request.subspan(sizeof(*header)));
  }
  ClearInbox();
  return true;
}

// The daemon can write there while we look.
std::span<const std::byte> FuseDoor::TakeInbox(size_t length) {
  const auto inbox = std::as_bytes(std::span(journal_.layout().inbox)).first(length);
  std::copy(inbox.begin(), inbox.end(), request_);
  return {request_, length};
}

// Somebody has aborted the connection (/sys/fs/fuse): readers get errors from the kernel, and nothing brings
// it back but a new mount.
void FuseDoor::OnBroken(int error) {
  CountOne(counters_.errors);
  if (!broken_.exchange(true)) {
    Log("the FUSE connection is broken (%s): unmount its images", std::strerror(error));
    journal_.layout().broken.store(error);
    // The kernel has failed those that waited.
    ForEachHeld([this](uint32_t index, const SlotRead& read) {
      if (!Waits(index)) return;
      Failed(read, Refusal::kBroken);
      GiveUp(index, ENOTCONN);
    });
  }
  usleep(kBrokenPauseUs);
}

Outcome FuseDoor::Prove() {
  if (!broken_.load()) return {};
  return Error{ENOTCONN, "the FUSE connection was aborted: unmount all images, then restart sluiced"};
}

void FuseDoor::ClearInbox() {
  auto& first = *reinterpret_cast<uint64_t*>(journal_.layout().inbox);
  std::atomic_ref<uint64_t>(first).store(0, std::memory_order_release);
}

void FuseDoor::Refuse(const fuse_in_header& header) {
  const bool answerless =
      header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT;
  if (!answerless) Check(replier_.Error(header.unique, EIO));
}

void FuseDoor::Handle(const fuse_in_header& header, std::span<const std::byte> body) {
  if ((header.unique & kUniqueResend) != 0 && IsHeld(header.unique)) return;
  switch (header.opcode) {
    case FUSE_READ:
      return HandleRead(header, body);
    case FUSE_INIT:
      return Initialise(header, body);
    case FUSE_LOOKUP:
      return LookUp(header, body);
    case FUSE_GETATTR:
      return GetAttributes(header);
    case FUSE_OPEN:
      return OpenFile(header);
    case FUSE_RELEASE:
    case FUSE_DESTROY:
      return Check(replier_.Error(header.unique, 0));
    case FUSE_STATFS: {
      fuse_statfs_out out{};
      out.st.bsize = out.st.frsize = kPageBytes;
      out.st.namelen = NAME_MAX;
      return Check(replier_.Struct(header.unique, out));
    }
    case FUSE_INTERRUPT:
      return Interrupt(body);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      return;
    default:
      return Check(replier_.Error(header.unique, ENOSYS));
  }
}

void FuseDoor::Initialise(const fuse_in_header& header, std::span<const std::byte> body) {
  // The part that all kernels send.
  struct Offer {
    uint32_t major, minor, max_readahead, flags;
  };
  const auto* offer = Cast<Offer>(body);
  if (offer == nullptr || offer->major != FUSE_KERNEL_VERSION) {
    Log("the kernel speaks a FUSE protocol that is not known here");
    return Check(replier_.Error(header.unique, EPROTO));
  }
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = std::min<uint32_t>(offer->minor, FUSE_KERNEL_MINOR_VERSION);
  out.max_readahead = offer->max_readahead;
  out.flags = offer->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS |
                              FUSE_AUTO_INVAL_DATA | FUSE_SPLICE_READ | FUSE_SPLICE_MOVE);
  out.max_write = kWriteBytesMax;
  out.max_background = kBackgroundMax;
  out.congestion_threshold = kBackgroundMax;
  out.time_gran = 1;
  out.max_pages = kFuseReadBytesMax / kPageBytes;
  Check(replier_.Struct(header.unique, out));
}

void FuseDoor::LookUp(const fuse_in_header& header, std::span<const std::byte> body) {
  const char* text = reinterpret_cast<const char*>(body.data());
  const std::string_view name(text, strnlen(text, body.size()));
  for (uint32_t entry = 0; entry < blobs_.size(); ++entry) {
    const Blob& blob = blobs_[entry];
    const BlobRecord& record = journal_.layout().blobs[entry];
    if (blob.node == 0 || name != std::string_view(record.name, kBlobNameLength)) continue;
    fuse_entry_out out{};
    out.nodeid = blob.node;
    // The name may be given to another node at any time, what the node is stays.
    out.attr_valid = kAttributesValidS;
    out.attr = AttributesOf(blob);
    return Check(replier_.Struct(header.unique, out));
  }
  Check(replier_.Error(header.unique, ENOENT));
}

void FuseDoor::GetAttributes(const fuse_in_header& header) {
  fuse_attr_out out{};
  out.attr_valid = kAttributesValidS;
  const Blob* blob = Find(header.nodeid);
  if (blob != nullptr) {
    out.attr = AttributesOf(*blob);
  } else if (header.nodeid == FUSE_ROOT_ID) {
    out.attr.ino = FUSE_ROOT_ID;
    out.attr.mode = S_IFDIR | 0500;
    out.attr.nlink = 1;
  } else {
    return Check(replier_.Error(header.unique, ESTALE));
  }
  Check(replier_.Struct(header.unique, out));
}

void FuseDoor::OpenFile(const fuse_in_header& header) {
  if (Find(header.nodeid) == nullptr) return Check(replier_.Error(header.unique, ESTALE));
  fuse_open_out out{};
  out.fh = header.nodeid;
  // No flush: whoever closes such a file, be it by dying, would wait for our answer and could not be killed.
  out.open_flags = FOPEN_KEEP_CACHE | kOpenNoFlush;
  Check(replier_.Struct(header.unique, out));
}

void FuseDoor::HandleRead(const fuse_in_header& header, std::span<const std::byte> body) {
  const auto* in = Cast<fuse_read_in>(body);
  const Blob* blob = Find(header.nodeid);
  if (in == nullptr || blob == nullptr || !FileIsWhole(*blob)) {
    CountOne(counters_.denied);
    if (in != nullptr && blob != nullptr)
      CountFailed(journal_.layout(), static_cast<uint32_t>(blob - blobs_.data()), Refusal::kFileChanged);
    return Check(replier_.Error(header.unique, EIO));
  }
  const uint64_t end = RoundUp(blob->size);
  const uint64_t wanted = in->offset < end ? std::min<uint64_t>(in->size, end - in->offset) : 0;
  if (in->offset >= blob->size || wanted == 0) {
    // Beyond the blob, within its last page or after it.
    static constexpr std::byte kNothing[kPageBytes] = {};
    return Check(replier_.Data(header.unique, {kNothing, std::min<uint64_t>(wanted, kPageBytes)}));
  }
  SlotRead read;
  read.blob = static_cast<uint32_t>(blob - blobs_.data());
  read.pid = static_cast<int32_t>(header.pid);
  read.request = header.unique;
  read.object_generation = static_cast<uint32_t>(blob->node >> kNodeEntryBits);
  read.offset = in->offset;
  read.length = std::min(wanted, blob->size - in->offset);
  read.tail = static_cast<uint32_t>(wanted - read.length);
  if (AllPresent(read.blob, blob->chunk_shift, read.offset, read.length)) {
    CountHit(read);
    const bool at_once = IsCached(blob->file.get(), read.offset, read.length) || !HasFreeSlot();
    return at_once ? Check(SendFile(read, *blob)) : PublishFinished(read);
  }
  if (HasFreeSlot() && !FailsAgain(read)) {
    Publish(read);
    return;
  }
  CountOne(counters_.denied);
  if (!HasFreeSlot()) Failed(read, Refusal::kNoSlot);  // one that fails again has counted before
  Check(replier_.Error(header.unique, EIO));
}

bool FuseDoor::SendFile(const SlotRead& read, const Blob& blob) {
  return replier_.File(read.request, blob.file.get(), read.offset, static_cast<uint32_t>(read.length),
                       read.tail);
}

// A reader that was killed can't end before its read is answered. For one that got another signal an answer
// would be an error out of nothing: it goes on to wait.
void FuseDoor::Interrupt(std::span<const std::byte> body) {
  const auto* in = Cast<fuse_interrupt_in>(body);
  if (in == nullptr) return;
  ForEachHeld([&](uint32_t index, const SlotRead& read) {
    if ((read.request & ~kUniqueResend) == (in->unique & ~kUniqueResend) && IsDying(read.pid))
      GiveUp(index, EINTR);
  });
}

void FuseDoor::RefuseQueued() {
  while (ReadRequest(true)) {
  }
}

// ------------------------------------------------------------------------------------------ the answers

Door::Answered FuseDoor::Answer(uint32_t index, const SlotRead& read, int verdict) {
  const Blob& blob = blobs_[read.blob % kBlobsMax];
  // The entry may be another blob's meanwhile.
  const bool readable = blob.node == NodeOf(read.blob, read.object_generation) && read.length > 0 &&
                        read.offset + read.length <= blob.size &&
                        read.length + read.tail <= kFuseReadBytesMax && FileIsWhole(blob);
  if (verdict != 0 || !readable) {
    Check(replier_.Error(read.request, verdict != 0 ? verdict : EIO));
    return Answered::kNow;
  }
  if (IsCached(blob.file.get(), read.offset, read.length)) {
    Check(SendFile(read, blob));
    return Answered::kNow;
  }
  // Of its own: the blob may be let go of meanwhile.
  const int file = fcntl(blob.file.get(), F_DUPFD_CLOEXEC, 0);
  if (file < 0) {
    Check(SendFile(read, blob));
    return Answered::kNow;
  }
  {
    const std::lock_guard lock(replies_mutex_);
    replies_.push_back({index, read, file});
  }
  replies_wake_.notify_one();
  return Answered::kLater;
}

void FuseDoor::WorkReplies() {
  prctl(PR_SET_NAME, "fuse-reply");
  FuseReplier replier(mount_.device.get());
  std::unique_lock lock(replies_mutex_);
  for (;;) {
    replies_wake_.wait(lock, [this] { return replies_stop_ || !replies_.empty(); });
    if (replies_.empty()) return;
    const PendingReply reply = replies_.front();
    replies_.pop_front();
    lock.unlock();
    const Descriptor file(reply.file);
    Check(replier.File(reply.read.request, file.get(), reply.read.offset,
                       static_cast<uint32_t>(reply.read.length), reply.read.tail));
    replied_[reply.index / 64].fetch_or(uint64_t{1} << reply.index % 64, std::memory_order_release);
    eventfd_write(completions_, 1);
    lock.lock();
  }
}

void FuseDoor::CollectAnswered() {
  TakeBits(std::span(replied_), [this](uint32_t index) { OnAnswered(index); });
}

// -------------------------------------------------------------------------------------- a keeper has died

// An answer that is on its way under the number that was valid before gets lost: such a read is a new one.
bool FuseDoor::IsHeld(uint64_t unique) {
  bool held = false;
  ForEachHeld([&](uint32_t index, const SlotRead& read) {
    if ((read.request & ~kUniqueResend) != (unique & ~kUniqueResend) || !Waits(index)) return;
    Renumber(index, unique);
    held = true;
  });
  return held;
}

void FuseDoor::AdoptOthers() {
  for (uint32_t entry = 0; entry < kBlobsMax; ++entry) {
    if (journal_.layout().blobs[entry].in_use.load() == 0) continue;
    Result<Blob> blob = Load(entry);
    if (blob.ok()) {
      blobs_[entry] = std::move(blob.value());
    } else {
      Log("reads of a blob will fail: %s", blob.error().text.c_str());
    }
  }
  HandleInbox();
  // What the kernel has not had an answer to it sends again, under another number; that is only a net below
  // the journal, and kernels before 6.9 have none.
  fuse_out_header resend{};
  resend.len = sizeof(resend);
  resend.error = kNotifyResend;
  if (write(kernel_.requests, &resend, sizeof(resend)) < 0) return;
  const int flags = fcntl(kernel_.requests, F_GETFL);
  if (fcntl(kernel_.requests, F_SETFL, flags | O_NONBLOCK) != 0) return;
  // Where no slot is free they would be refused; so they wait in the kernel until one is. What is held is
  // then answered under a number that is not valid any more, and done once more when it comes.
  while (HasFreeSlot() && ReadRequest(false)) {
  }
}

// The request that the predecessor had read last: in a slot or answered already, perhaps.
void FuseDoor::HandleInbox() {
  const std::span<const std::byte> request = TakeInbox(kInboxBytes);
  const auto& header = *Cast<fuse_in_header>(request);
  if (header.len >= sizeof(header) && header.len <= request.size() && !IsHeld(header.unique))
    Handle(header, request.first(header.len).subspan(sizeof(header)));
  ClearInbox();
}

}  // namespace sluice::keeper
