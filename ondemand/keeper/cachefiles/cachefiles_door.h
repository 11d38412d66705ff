#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ondemand/keeper/cachefiles/cachefiles_device.h"
#include "ondemand/keeper/door.h"

namespace sluice::keeper {

// An object that a predecessor's daemon has kept open.
struct KeptObject {
  uint32_t index = 0;  // in the journal's objects, and its generation
  uint32_t generation = 0;
  Descriptor file;
};

// The door that is made of the kernel's cachefiles in on-demand mode: the kernel has a copy of each blob of
// its own, and asks for what the copy lacks. The keeper answers what the kernel asks of names (OPEN) alone,
// as who waits for that can't be killed; the daemon fills the copy and so answers READs.
class CachefilesDoor final : public Door {
 public:
  CachefilesDoor(Journal& journal, CachefilesCache cache, int completions, std::vector<KeptObject> kept = {});
  ~CachefilesDoor() override { Stop(); }

  // Fails with EIO when the kernel has given the cache up.
  Outcome Prove() override;
  // Cheap; never fails.
  Outcome Guard(uint32_t entry) override;
  void Forget(uint32_t entry) override;
  void AddImage(const MountRecord& image) override;
  void RemoveImage(const MountRecord& image) override;
  // What a file system of a dead keeper's has open in the same domain the kernel does not open again, and
  // nobody can read.
  size_t FilesNotOpen(const MountRecord& image) override;
  // The kernel gives a new copy its name when it is closed for the first time.
  size_t CopiesWithoutName(const MountRecord& image) override;
  void Connect(Descriptor objects) override;
  bool Idle() override { return open_objects_.load() == 0; }
  std::vector<HeldObject> Objects() const override;

 private:
  // The names that the kernel has for a file of its cache: the volume's, without "erofs,", and the cookie's.
  using Names = std::pair<std::string, std::string>;
  struct Registration {
    uint32_t blob = 0;
    uint32_t images = 0;
  };
  struct Object {
    Descriptor file;  // invalid: not open, or lost with a predecessor
    uint32_t number = 0;
    uint32_t blob = 0;
    Names names;
  };

  void ReadRequests() override;
  bool ReadingCanBlock() const override { return false; }
  bool ReadsWaitInKernel() const override { return false; }
  Answered Answer(uint32_t index, const SlotRead& read, int verdict) override;
  void OnReadable(int fd) override;
  void AdoptOthers() override;
  void RefuseQueued() override;

  // Whether there was a request.
  bool ReadRequest(bool refuse);
  void Handle(const CachefilesMessage& message, bool refuse);
  void Open(const CachefilesHeader& header, const CachefilesOpen& open, bool refuse);
  // Whether what has the object's name in the cache may be read from: made by the kernel, or emptied.
  bool ProveCopyOf(const Names& names);
  void RefuseOpen(const CachefilesHeader& header, int fd, int error);
  void Close(const CachefilesHeader& header);
  void Read(const CachefilesHeader& header, const CachefilesRead& read, bool refuse);
  void Reject(const CachefilesHeader& header, const CachefilesMalformed& malformed);
  void Complete(int file, uint32_t id);
  void OnUnknownObject(const CachefilesHeader& header);

  // The blob that the names mean.
  std::optional<uint32_t> Find(const CachefilesOpen& open) const;
  // The place of an object that is not open any more, or a free one; kObjectsMax if there is none.
  uint32_t PlaceFor(const Names& names);
  void Publish(uint32_t index, const Object& object);
  void Withdraw(uint32_t index);
  void GiveUpReadsOf(uint32_t index);
  void ChangeRegistrations(const MountRecord& image, int by);
  void Restore();
  void OnTimer() override;
  void AfterRound() override;
  Outcome Command(const std::string& command);
  void HandleInbox();
  void ClearInbox();

  CachefilesCache cache_;
  std::atomic<uint32_t> open_objects_{0};

  // Owned by the door's thread once it runs.
  std::vector<uint64_t> sizes_;                    // of the guarded blobs, by entry; 0: not guarded
  std::map<Names, Registration> registrations_;    // what images have told us
  std::vector<Object> objects_;                    // by their place in the journal
  std::unordered_map<uint32_t, uint32_t> places_;  // by the kernel's number
  std::unordered_map<uint32_t, uint32_t> slots_;   // of READs that wait, by the kernel's number
  // READs that came while all slots were taken. They can't wait in the kernel, or OPEN and CLOSE would too.
  // Each has the deadline that it would have in a slot.
  struct Parked {
    CachefilesMessage message;
    int64_t deadline_ns = 0;
  };
  std::deque<Parked> overflow_;
  int64_t restored_ns_ = 0;  // when it was last asked for; CLOCK_MONOTONIC
  std::atomic<bool> dead_{false};
  bool adopted_ = false;  // there was a predecessor
  Descriptor line_;       // of the daemon that asks for objects
};

}  // namespace sluice::keeper
