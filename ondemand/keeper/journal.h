#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

// The memory that the keeper shares with the daemon, and leaves to its successor: a sealed memfd. It holds
// the reads that wait (slots), the blobs whose reads are guarded with their presence bits, and the mounts.
//
// A slot's way. Every arrow is one compare-and-swap of the slot's word, which also carries the slot's ticket
// number: a late step for a slot that was used again meanwhile changes nothing.
//
//            keeper: publish          daemon: take          daemon: finish
//    FREE ------------------> PENDING ----------> TAKEN ------------------> DONE(0 or errno)
//     ^                          |   <----------    |                          |
//     |                          |   daemon died    | keeper: deadline         |
//     |        keeper: deadline  |                  | (refuses with EIO)       |
//     |      (refuses with EIO)  |                  v                          |
//     |                          |               EXPIRED                       |
//     |                          |                  | daemon: finish, or died  |
//     |                          |                  v                          |
//     |                          +------------> RELEASED                       |
//     |   keeper: has answered the kernel,          |                          |
//     |   and lets go of the request                |                          |
//     +---------------------------------------------+--------------------------+
//
// What the kernel knows the request by is not given to another one as long as the slot is not FREE: a
// fanotify event's descriptor stays open. A slot becomes FREE only when its answer was given: a successor
// gives those again that its predecessor may have died before, as nobody else would (kernels before 6.9 do
// not send a FUSE request twice, and its reader can't even be killed).
namespace sluice::keeper {

inline constexpr uint64_t kJournalMagic = 0x31524e4a43554c53;  // "SLUCJNR1"
inline constexpr uint32_t kJournalVersion = 7;
inline constexpr uint32_t kSlotsMax = 16384;
inline constexpr uint32_t kBlobsMax = 16384;
inline constexpr uint32_t kMountsMax = 1024;
inline constexpr uint32_t kDevicesMax = 500;  // of one mount
inline constexpr uint32_t kChunksMax = 65536;
inline constexpr uint32_t kChunkShiftMin = 14;  // 16 KiB
inline constexpr uint32_t kChunkShiftMax = 26;  // 64 MiB
inline constexpr uint32_t kPresenceWords = kChunksMax / 64;
inline constexpr uint32_t kBlobNameLength = 64;
inline constexpr uint32_t kMountPathMax = 1024;  // with the terminating zero
inline constexpr uint32_t kMountLabelMax = 512;
inline constexpr uint32_t kDomainMax = 64;
inline constexpr uint32_t kFsidMax = 96;
inline constexpr uint32_t kSysfsNameMax = 168;  // a domain and an fsid fit
inline constexpr uint32_t kNoBlob = ~uint32_t{0};
inline constexpr uint32_t kInboxBytes = 8192;
inline constexpr uint32_t kObjectsMax = 16384;  // as many as blobs, which have one each in a domain
inline constexpr uint32_t kCacheKeyMax = 256;   // more than fscache allows

// Which of the kernel's interfaces reads come through.
enum class DoorKind : uint32_t { kFanotify = 1, kCachefiles = 2, kFuse = 3 };
// As in ondemand.backend.
const char* DoorName(DoorKind kind);

enum class SlotState : uint8_t { kFree, kPending, kTaken, kDone, kExpired, kReleased };

// State, verdict and ticket number of a slot in one word.
class SlotWord {
 public:
  constexpr explicit SlotWord(uint64_t bits = 0) : bits_(bits) {}
  constexpr SlotWord(uint64_t ticket, SlotState state, uint8_t verdict = 0)
      : bits_(ticket << 16 | uint64_t{verdict} << 8 | static_cast<uint8_t>(state)) {}

  constexpr uint64_t bits() const { return bits_; }
  constexpr uint64_t ticket() const { return bits_ >> 16; }
  // 0 or an errno value; only with kDone.
  constexpr uint8_t verdict() const { return bits_ >> 8 & 0xff; }
  constexpr SlotState state() const { return static_cast<SlotState>(bits_ & 0xff); }

 private:
  uint64_t bits_;
};

// What a published slot says of its read.
struct SlotRead {
  uint32_t blob = 0;  // entry in the blob table
  int32_t pid = 0;    // the thread that reads; 0 if the kernel does not say
  // What the kernel knows the read by: the number of the event's descriptor (fanotify), the request's
  // `unique` (FUSE), the message's id (cachefiles).
  uint64_t request = 0;
  uint32_t object = 0;             // cachefiles: the object's entry
  uint32_t object_generation = 0;  // cachefiles: of that entry; FUSE: of the blob's
  uint32_t tail = 0;  // FUSE: bytes asked for beyond the blob's end, up to the end of its last page
  uint64_t offset = 0;
  uint64_t length = 0;
  int64_t deadline_ns = 0;  // of NowNs()
};

// One read that waits. The keeper writes `read` before it publishes, nobody does while the slot is not FREE.
class alignas(64) Slot {
 public:
  SlotRead read;

  SlotWord word() const { return SlotWord(word_.load(std::memory_order_acquire)); }

  // Keeper. REQUIRES: state kFree, `read` filled in
  void Publish(uint64_t ticket) {
    word_.store(SlotWord(ticket, SlotState::kPending).bits(), std::memory_order_release);
  }
  // Daemon. Returns the ticket number, or 0 if the slot does not wait for a daemon.
  uint64_t Take();
  // Daemon: finishes what it took; `verdict` is 0 (the bytes are there) or an errno value. Also after the
  // deadline, to let go. Returns whether the verdict will reach the reader.
  bool Finish(uint64_t ticket, uint8_t verdict);

  // Keeper: the deadline has come. Returns the state from which it expired: kPending (now kReleased) or
  // kTaken (now kExpired), after either of which the keeper refuses the read; else nothing was changed.
  SlotState Expire();
  // Keeper: the daemon is dead or has left. kTaken becomes kPending under a new ticket number, so that the
  // one who had it can't finish it any more; kExpired becomes kReleased.
  void Abandon(uint64_t new_ticket);
  // Keeper: publishes a read that needs no daemon, to answer it in its own time. REQUIRES: state kFree,
  // `read` filled in
  void PublishFinished() {
    word_.store(SlotWord(word().ticket(), SlotState::kDone).bits(), std::memory_order_release);
  }
  // Keeper: the read is answered.
  void Free() { word_.store(SlotWord(word().ticket(), SlotState::kFree).bits(), std::memory_order_release); }

 private:
  bool Move(SlotWord from, SlotWord to) {
    uint64_t expected = from.bits();
    return word_.compare_exchange_strong(expected, to.bits(), std::memory_order_acq_rel);
  }

  std::atomic<uint64_t> word_{0};
};

// Why the keeper failed a read by itself. Their numbers stand in journals that outlive a version.
enum class Refusal : uint32_t {
  kNone = 0,
  kNoAnswer = 1,     // no daemon answered before its deadline
  kNoSlot = 2,       // so many wait already that nothing comes free
  kFileChanged = 3,  // the blob's file was cut, deleted, or is another one's
  kBroken = 4,       // the kernel's side is gone: an aborted FUSE connection, a cache that was given up
  kNotCopied = 5,    // the bytes came, and could not be put into the kernel's cache
};
// In words, for the operator.
const char* RefusalText(Refusal refusal);

// A blob whose reads are guarded. `in_use` is written last when an entry is made and first when it goes; the
// other fields, but for the counts, do not change between.
struct BlobRecord {
  std::atomic<uint32_t> in_use{0};
  std::atomic<uint32_t> complete{0};  // its ignore mark is set
  std::atomic<uint32_t> orphaned{0};  // fanotify: its file has a mark of its own
  std::atomic<uint32_t> failed{0};    // reads that got an error of which the daemon does not know
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  uint32_t chunk_shift = 0;
  uint32_t generation = 0;            // grows each time the entry is used
  std::atomic<uint32_t> revision{0};  // FUSE: grows when what the kernel has cached may be wrong
  std::atomic<Refusal> last_refusal{Refusal::kNone};  // of those that failed
  std::atomic<uint64_t> hits{0};                      // reads that the keeper let pass, and their bytes
  std::atomic<uint64_t> hit_bytes{0};
  char name[kBlobNameLength] = {};  // its file's name in the store; not terminated
};

// A keeper and a daemon of another version may share a journal: what was added lies where there was padding.
static_assert(sizeof(BlobRecord) == 136 && offsetof(BlobRecord, device) == 16 &&
              offsetof(BlobRecord, hits) == 56);

// Which chunks of a blob may be read, a bit each. Apart from the record: who looks for a blob looks at all
// records, and must not make the kernel find memory for the bits of those that are not there. Bits beyond the
// blob's last chunk may be anything.
//
// Where a blob needs no more than half of the words, the other half says which of its chunks were read while
// they were present: set by the keeper, taken by a daemon that wants to know. A keeper of an earlier version
// sets none.
struct PresenceBits {
  std::atomic<uint64_t> words[kPresenceWords] = {};
};
inline constexpr uint32_t kTouchedFrom = kPresenceWords / 2;  // the first word of the other half
constexpr bool HasTouchedBits(uint64_t size, uint32_t chunk_shift) {
  return size <= uint64_t{kChunksMax / 2} << chunk_shift;
}

// A file of the kernel's cache that is open: the kernel's copy of a blob (cachefiles). Written by keepers.
// Its generation changes whenever the rest does, and is odd while the object is open.
struct ObjectRecord {
  uint32_t blob = 0;             // entry in the blob table, and that entry's generation: it may be used again
  uint32_t blob_generation = 0;  // before the kernel has closed the object
  uint32_t object = 0;           // the kernel's number
  uint32_t volume_length = 0;
  uint32_t cookie_length = 0;
  char volume[kCacheKeyMax] = {};
  char cookie[kCacheKeyMax] = {};
};
constexpr bool ObjectIsOpen(uint32_t generation) {
  return generation % 2 == 1;
}

// An EROFS mount of the keeper's, or without a mount point an orphan that it has adopted. Only keepers write
// these.
struct MountRecord {
  uint32_t in_use = 0;
  uint32_t device_count = 0;
  uint32_t bootstrap = kNoBlob;  // its entry, if it is read through the door too (cachefiles)
  uint32_t padding = 0;
  // How the mount is known: its number in mountinfo and its device's. Neither is given again to a mount of
  // another file system while ours lives.
  uint64_t mount_id = 0;
  uint64_t device = 0;
  uint32_t devices[kDevicesMax] = {};
  char mount_point[kMountPathMax] = {};  // where it is now, whoever has moved it
  char label[kMountLabelMax] = {};
  char domain[kDomainMax] = {};  // cachefiles: whose mounts share their blobs' copies
  char fsid[kFsidMax] = {};      // cachefiles: the bootstrap's name there
  // The file system's, below /sys/fs/erofs. The name is given again at once, the directory's inode number
  // is not.
  char sysfs_name[kSysfsNameMax] = {};
  uint64_t sysfs_inode = 0;
};

// Since the journal was made; only keepers write them.
struct Counters {
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> hit_bytes{0};
  std::atomic<uint64_t> published{0};
  std::atomic<uint64_t> filled{0};
  std::atomic<uint64_t> refused{0};
  std::atomic<uint64_t> expired{0};
  std::atomic<uint64_t> denied{0};
  std::atomic<uint64_t> canaries{0};
  std::atomic<uint64_t> errors{0};
  std::atomic<uint64_t> log_dropped{0};  // lines of the keeper's log
  std::atomic<uint64_t> failed{0};       // reads of all blobs, as BlobRecord::failed
};

struct JournalLayout {
  uint64_t magic = kJournalMagic;
  uint32_t version = kJournalVersion;
  uint32_t slot_count = 0;
  DoorKind door = DoorKind::kFanotify;
  uint32_t descriptor_limit = 0;       // event descriptors have numbers below this
  std::atomic<int32_t> daemon_pid{0};  // who is attached; 0 if nobody is
  std::atomic<int64_t> read_deadline_ns{0};
  std::atomic<uint64_t> next_ticket{1};
  // Grows with every publication; a futex that the daemon waits on.
  alignas(64) std::atomic<uint32_t> submissions{0};
  // Hints at what to look at, one bit per slot: set after the slot's word has changed, taken by exchange. Who
  // starts anew, or learns that the other side has died, looks at all slots instead.
  alignas(64) std::atomic<uint64_t> submitted[kSlotsMax / 64] = {};
  alignas(64) std::atomic<uint64_t> finished[kSlotsMax / 64] = {};
  Counters counters;
  std::atomic<int32_t> broken{
      0};  // the errno value by which the kernel's side was found gone; 0: it is there
  // Where the door's thread has the kernel put the request that it reads (FUSE, cachefiles): one that was
  // read is never unknown to a successor. Its first word is 0 when the request is in a slot or answered.
  alignas(64) char inbox[kInboxBytes] = {};
  alignas(64) Slot slots[kSlotsMax];
  BlobRecord blobs[kBlobsMax];
  alignas(4096) PresenceBits present[kBlobsMax];  // by the blob's entry
  MountRecord mounts[kMountsMax];
  // Grows with every change of an object; a futex that the daemon waits on.
  alignas(64) std::atomic<uint32_t> object_changes{0};
  std::atomic<uint32_t> object_generations[kObjectsMax] = {};
  ObjectRecord objects[kObjectsMax];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "the journal is shared between processes");

// A read got an error of which the daemon does not know. Keeper; the daemon, when its answer came too late.
void CountFailed(JournalLayout& layout, uint32_t entry, Refusal why);

// A mapping of the journal. Thread-safe, as far as the layout's comments say.
class Journal {
 public:
  // A new, empty one. REQUIRES: 0 < slot_count <= kSlotsMax
  static Result<std::unique_ptr<Journal>> Create(uint32_t slot_count, DoorKind door = DoorKind::kFanotify);
  // Maps one that another process has made; keeps a duplicate of `fd` with a number of at least
  // `lowest_number`. Fails with EPROTO if it is none, is of another version, or could be made shorter under
  // us.
  static Result<std::unique_ptr<Journal>> Open(int fd, int lowest_number = 0);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Leaves the memory mapped when this object goes, for those who still point into it.
  void KeepMapped() { keep_mapped_.store(true); }

  int fd() const { return file_.get(); }
  JournalLayout& layout() { return *layout_; }
  const JournalLayout& layout() const { return *layout_; }
  std::span<Slot> slots() { return {layout_->slots, slot_count_}; }

  // Keeper: makes slot `index` visible to the daemon under the next ticket number, and wakes it. Returns the
  // number.
  uint64_t Submit(uint32_t index);
  // Keeper: makes the daemon look at slot `index` again.
  void Resubmit(uint32_t index);
  // Keeper: takes slot `index` back from a daemon that is dead or has left.
  void Abandon(uint32_t index);
  // Daemon: tells the keeper to look at slot `index`; then the completion eventfd is to be written.
  void MarkFinished(uint32_t index);
  // Keeper: an entry is another blob's now.
  void ForgetTouched(uint32_t entry);
  // Keeper: says that an object has changed.
  void NoteObjectChange();
  // Daemon: sleep until `seen` is not the count of submissions, or of object changes, any more, or for at
  // most `timeout_ms`.
  void WaitForSubmission(uint32_t seen, int timeout_ms) const;
  void WaitForObjectChange(uint32_t seen, int timeout_ms) const;

 private:
  Journal(Descriptor file, JournalLayout* layout);

  const Descriptor file_;
  JournalLayout* const layout_;
  std::atomic<bool> keep_mapped_{false};
  const uint32_t slot_count_;  // as checked; the mapped one may be scribbled on
};

// Calls visit(index) for every bit that was set in `words`, and clears them.
template <typename Visit>
void TakeBits(std::span<std::atomic<uint64_t>> words, Visit visit) {
  for (size_t w = 0; w < words.size(); ++w) {
    if (words[w].load(std::memory_order_relaxed) == 0) continue;
    uint64_t bits = words[w].exchange(0, std::memory_order_acq_rel);
    for (; bits != 0; bits &= bits - 1) visit(static_cast<uint32_t>(w * 64 + __builtin_ctzll(bits)));
  }
}

}  // namespace sluice::keeper
