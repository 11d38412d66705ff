#pragma once

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "ondemand/keeper/clock.h"
#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/replacement.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// Answers the kernel's reads: those of present chunks at once, others when the daemon has finished their slot
// or their deadline has come. One thread does all of it, and is the only one in the machine that answers.
// What the kernel's interface looks like is the business of FanotifyDoor, FuseDoor and CachefilesDoor.
//
// While no read waits for the daemon, the thread blocks in read(2) of the kernel's requests alone: measured,
// an epoll_wait before each read makes a hit a fifth slower. A call from another thread then interrupts it by
// SIGUSR1.
//
// Start, Stop, Guard, Forget, AbandonTickets and what follows them are called on another thread, one at a
// time.
class Door {
 public:
  // What the daemon keeps duplicates of, so that the kernel's side outlives a dead keeper.
  struct Kernel {
    int requests = -1;  // where the kernel's requests are read from
    int tree = -1;      // directory of the files that images are mounted through, each named as its blob
    int store = -1;     // the store's directory; reads through it raise no request
  };

  virtual ~Door() = default;
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  const Kernel& kernel() const { return kernel_; }

  // Takes over what a dead predecessor left in the journal: its waiting reads are kept and its answers given
  // again. REQUIRES: Start() not yet called
  void Adopt();
  Outcome Start();
  // Refuses all reads that wait and all that are queued, then ends. Idempotent.
  void Stop();

  // Reads of this blob are answered from its record's presence bits from now on. REQUIRES: the record is
  // filled in
  virtual Outcome Guard(uint32_t entry) = 0;
  virtual void Forget(uint32_t entry) = 0;
  // The daemon is dead: what it had taken waits for the next one.
  void AbandonTickets();
  // A daemon has come, or an entry is another blob's: what failed before may succeed.
  void ForgetFailures();
  // Answers all reads with EIO, those that wait too, until ServeReads: their readers are to end. A successor
  // does not know of it. Idempotent.
  void RefuseReads();
  void ServeReads();
  bool RefusesReads() const { return refuses_reads_.load(); }

  // Lets reads of the blob's file pass unasked, where the kernel can, until they are to be asked for again.
  // Idempotent.
  virtual Outcome MarkComplete(const BlobRecord&) { return {}; }
  virtual Outcome ClearComplete(const BlobRecord&) { return {}; }
  // Has reads of the blob's file come here that go past what images are mounted through now, from file
  // systems of an earlier keeper. Idempotent.
  virtual Outcome WatchOrphaned(const BlobRecord&) {
    return Error{ENOTSUP, "a dead keeper's file systems can't be taken over through this door"};
  }
  // Whether reads of holes really come here. To be called before each mount.
  virtual Outcome Prove() { return {}; }
  // Tells the door of an image before it is mounted, and when it is gone, where the kernel asks by the
  // image's names. REQUIRES: its blobs are guarded
  virtual void AddImage(const MountRecord&) {}
  virtual void RemoveImage(const MountRecord&) {}
  // For how many of the image's files the kernel has not come here, or holds them open no more: it may open
  // them after the mount. REQUIRES: the image was told of
  virtual size_t FilesNotOpen(const MountRecord&) { return 0; }
  // How many of the copies that the kernel has of the image's files, apart from the store, can't be reached
  // by a name, and so not be dropped.
  virtual size_t CopiesWithoutName(const MountRecord&) { return 0; }
  // The line on which a daemon that has just attached asks for objects.
  virtual void Connect(Descriptor) {}
  // Whether the kernel holds nothing of the door's any more. Asked when nothing is mounted.
  virtual bool Idle() { return true; }
  // What the kernel holds open, for RunInstead. REQUIRES: on the door's thread
  virtual std::vector<HeldObject> Objects() const { return {}; }

  // Runs it on the door's thread, where no request is half handled, and waits; at once where there is no
  // thread.
  void CallOnThread(std::function<void()> call);

 protected:
  enum class Answered {
    kNow,
    kLater,  // OnAnswered will be called
  };

  // `journal` outlives the door. `completions` is an eventfd.
  Door(Journal& journal, Kernel kernel, int completions);

  // --- What a kind of door does; on the door's thread, or before there is one.

  // Reads what the kernel has to say. May return without anything.
  virtual void ReadRequests() = 0;
  // Whether reading blocks when requests_blocking() was asked for; else requests are only read when they are
  // announced by epoll(7).
  virtual bool ReadingCanBlock() const { return true; }
  // Whether no request is read while there is no free slot.
  virtual bool ReadsWaitInKernel() const { return true; }
  // Gives the kernel the verdict: 0, and the reader gets the bytes of the blob's file; else an errno value,
  // and that at once.
  virtual Answered Answer(uint32_t index, const SlotRead& read, int verdict) = 0;
  // A descriptor of WatchDescriptor() is readable.
  virtual void OnReadable(int) {}
  // The time of SetTimer() has come.
  virtual void OnTimer() {}
  // After requests and answers were handled.
  virtual void AfterRound() {}
  // Calls OnAnswered for those that were answered later.
  virtual void CollectAnswered() {}
  // The slot does not name the request any more.
  virtual void LetGo(const SlotRead&) {}
  // After the slots were adopted: requests that the predecessor had read and not written down.
  virtual void AdoptOthers() = 0;
  // At the end: what is still queued in the kernel.
  virtual void RefuseQueued() = 0;

  // --- What all have in common; on the door's thread.

  bool HasFreeSlot() const { return !free_.empty(); }
  // Whether a read is to be refused without a wait, as its reader (a thread; a loop device's worker for all
  // that read through it) has just waited in vain for these chunks or for those right before: the kernel asks
  // for what it wanted to read ahead, and again, page by page, for what it was refused, and each time would
  // cost the reader another deadline. Where the kernel does not say who reads (cachefiles; readers in a PID
  // namespace that is not ours or below) whoever reads just after somebody waited in vain is taken for the
  // same. All are, while reads are refused.
  bool FailsAgain(const SlotRead& read);
  // Whether there is a free slot, or one will come free at a deadline. If not, the daemon holds them all.
  bool SlotsComeFree() const { return !free_.empty() || first_waiting_ != kNone; }
  // Hands the read to the daemon and returns its slot. Its deadline is set here. REQUIRES: HasFreeSlot()
  uint32_t Publish(SlotRead read);
  // Answers the read through a slot, as if the daemon had finished it: for a hit whose answer takes time.
  // REQUIRES: HasFreeSlot()
  void PublishFinished(SlotRead read);
  // Answers a read that waits with this errno value.
  void GiveUp(uint32_t index, int error = EINTR);
  // Refuses the blob's reads that wait: its entry may become another blob's.
  void RefuseReadsOf(uint32_t entry);
  // Ends a read whose Answer() was kLater.
  void OnAnswered(uint32_t index);
  void CountHit(const SlotRead& read);
  // The read gets an error that the daemon hears nothing of.
  void Failed(const SlotRead& read, Refusal why) { CountFailed(journal_.layout(), read.blob, why); }
  // False while reads are refused. REQUIRES: length > 0, the range ends within the blob
  bool AllPresent(uint32_t entry, uint32_t chunk_shift, uint64_t offset, uint64_t length) const;
  // The reads that wait, for a door that must look for one; the kernel may know one by another number now.
  template <typename Visit>
  void ForEachHeld(Visit visit) {
    for (uint32_t i = 0; i < held_.size(); ++i) {
      if (held_[i].in_use) visit(i, held_[i].read);
    }
  }

  // Whether the read has no answer yet, nor one on its way. REQUIRES: the slot is held
  bool Waits(uint32_t index) const { return held_[index].waiting; }
  void Renumber(uint32_t index, uint64_t request);
  // REQUIRES: the slot is held
  const SlotRead& ReadOf(uint32_t index) const { return held_[index].read; }

  // REQUIRES: Start() was called
  bool WatchDescriptor(int fd);
  // One at a time; CLOCK_MONOTONIC.
  void SetTimer(int64_t at_ns) { timer_ns_ = at_ns; }

  Journal& journal_;
  Counters& counters_;
  const Kernel kernel_;
  const int completions_;

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  // What this process knows of a slot without trusting the shared memory.
  struct Held {
    SlotRead read;
    bool in_use = false;
    bool waiting = false;  // in the list by deadline: neither expired nor being answered
    uint32_t previous = kNone;
    uint32_t next = kNone;
  };

  void Run();
  void WaitForRequest();
  void WaitForAnything();
  void SetBlocking(bool blocking);
  bool ReadsWait() const { return free_.size() != held_.size(); }
  void RunCall();
  int WaitTimeout() const;
  void UpdateIntake();

  uint32_t TakeFreeSlot(SlotRead& read);
  void RememberFailure(const SlotRead& read);
  void AnswerFinished();
  void Reap(uint32_t index);
  void ExpireDue(int64_t now_ns);
  void NoteTouched(const BlobRecord& record, const SlotRead& read);
  void AdoptSlot(uint32_t index);
  void RefuseHeld();

  void Hold(uint32_t index, const SlotRead& read);
  void Unlink(uint32_t index);
  void Release(uint32_t index);

  std::atomic<bool> refuses_reads_{false};  // written on the door's thread

  // Owned by the door's thread once it runs.
  Descriptor poll_;
  std::vector<Held> held_;
  std::vector<uint32_t> free_;
  uint32_t first_waiting_ = kNone;  // by deadline, earliest first
  uint32_t last_waiting_ = kNone;
  int64_t timer_ns_ = 0;  // 0: none
  // Until when a reader's reads of a chunk are refused.
  std::unordered_map<uint64_t, int64_t> failed_until_ns_;
  bool intake_open_ = true;
  bool blocking_ = false;
  bool stopping_ = false;

  Descriptor call_event_;
  std::mutex call_mutex_;  // guards call_
  std::condition_variable call_done_;
  std::function<void()> call_;
  std::atomic<bool> call_waits_{false};
  std::thread thread_;
};

inline void CountOne(std::atomic<uint64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace sluice::keeper
