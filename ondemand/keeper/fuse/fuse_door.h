#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "ondemand/keeper/door.h"
#include "ondemand/keeper/fuse/fuse_mount.h"
#include "ondemand/keeper/fuse/fuse_replier.h"

struct fuse_in_header;
struct fuse_attr;

namespace sluice::keeper {

// The door that is made of a FUSE connection: each guarded blob is a read-only file of one directory, whose
// bytes come from the store's file. The numbers of its nodes never change meaning, and its files' handles are
// their nodes: a successor has no state to learn.
// Sources: include/uapi/linux/fuse.h, Documentation/filesystems/fuse.rst.
class FuseDoor final : public Door {
 public:
  FuseDoor(Journal& journal, FuseMount mount, int completions);
  ~FuseDoor() override;

  // Fails with ENOTCONN when somebody has aborted the connection.
  Outcome Prove() override;
  // Errors: as openat(2); ESTALE if the store's file is another one.
  Outcome Guard(uint32_t entry) override;
  void Forget(uint32_t entry) override;
  // The kernel's cached pages of the blob are not read any more.
  Outcome ClearComplete(const BlobRecord& record) override;

 private:
  // A guarded blob, without trusting the shared memory.
  struct Blob {
    uint64_t node = 0;  // 0: none
    uint64_t size = 0;
    uint32_t chunk_shift = 0;
    Descriptor file;
  };
  struct PendingReply {
    uint32_t index = 0;
    SlotRead read;
    int file = -1;
  };

  void ReadRequests() override;
  Answered Answer(uint32_t index, const SlotRead& read, int verdict) override;
  void CollectAnswered() override;
  void AdoptOthers() override;
  void RefuseQueued() override;

  // Whether there was a request.
  bool ReadRequest(bool refuse);
  void OnBroken(int error);
  void Handle(const fuse_in_header& header, std::span<const std::byte> body);
  void Refuse(const fuse_in_header& header);
  void Initialise(const fuse_in_header& header, std::span<const std::byte> body);
  void LookUp(const fuse_in_header& header, std::span<const std::byte> body);
  void GetAttributes(const fuse_in_header& header);
  void OpenFile(const fuse_in_header& header);
  void HandleRead(const fuse_in_header& header, std::span<const std::byte> body);
  void Interrupt(std::span<const std::byte> body);
  fuse_attr AttributesOf(const Blob& blob) const;
  bool IsHeld(uint64_t unique);
  void HandleInbox();
  std::span<const std::byte> TakeInbox(size_t length);
  void ClearInbox();

  Result<Blob> Load(uint32_t entry) const;
  const Blob* Find(uint64_t node) const;
  bool FileIsWhole(const Blob& blob) const;
  bool SendFile(const SlotRead& read, const Blob& blob);
  void Check(bool replied) {
    if (!replied) CountOne(counters_.errors);
  }

  void WorkReplies();

  const FuseMount mount_;
  std::vector<Blob> blobs_;  // by entry; of the door's thread
  FuseReplier replier_;      // of the door's thread
  std::atomic<bool> broken_{false};
  alignas(8) std::byte request_[kInboxBytes];  // the one that is being handled

  // Replies that wait for the disk are sent by threads of their own, so that they hold up no other.
  std::mutex replies_mutex_;  // guards the three that follow
  std::condition_variable replies_wake_;
  std::deque<PendingReply> replies_;
  bool replies_stop_ = false;
  std::vector<std::atomic<uint64_t>> replied_;  // a bit per slot: to be freed
  std::vector<std::thread> repliers_;
};

}  // namespace sluice::keeper
