#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/inode_table.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/keeper/result.h"
#include "ondemand/keeper/watch.h"

struct fanotify_event_metadata;

namespace sluice::keeper {

// Answers the group's events: reads of present chunks at once, others when the daemon has finished their slot
// or their deadline has come. One thread does all of it, and is the only one in the machine that answers.
//
// While no read waits for the daemon, the thread blocks in read(2) of the group alone: measured, an
// epoll_wait before each read makes a hit a fifth slower. A call from another thread then interrupts it by
// SIGUSR1.
//
// Guard, Forget, AbandonTickets and Stop are called on another thread, one at a time, and wait for the
// door's.
class Door {
 public:
  // All outlive the door. `completions` is an eventfd.
  Door(Journal& journal, int group, int completions, FileId canary);
  ~Door() { Stop(); }
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  // Takes over what a dead predecessor left in the journal: its waiting reads are kept, its answers given
  // again, and reads that it had seen but not written down are refused. REQUIRES: ReserveEventNumbers() was
  // successful, Start() not yet called
  void Adopt();
  Outcome Start();
  // Refuses all reads that wait and all that are queued, then ends. Idempotent.
  void Stop();

  // Reads of this file are answered from its record's presence bits from now on.
  void Guard(const InodeTable::Blob& blob);
  void Forget(FileId file);
  // The daemon is dead: what it had taken waits for the next one.
  void AbandonTickets();

 private:
  // What this process knows of a slot without trusting the shared memory.
  struct Held {
    int event_fd = -1;  // -1: the slot is free
    bool expired = false;
    uint32_t previous = kNone;
    uint32_t next = kNone;
    int64_t deadline_ns = 0;
  };
  enum class Lookup { kPresent, kAbsent, kRefused };
  static constexpr uint32_t kNone = ~uint32_t{0};

  void Run();
  void WaitForEvent();
  void WaitForAnything();
  void SetBlocking(bool blocking);
  bool ReadsWait() const { return free_.size() != held_.size(); }
  void CallOnThread(std::function<void()> call);
  void RunCall();
  int WaitTimeout() const;
  void UpdateIntake();

  void ReadEvents();
  void HandleEvent(const fanotify_event_metadata& event);
  Lookup Classify(const fanotify_event_metadata& event, SlotRead& read);
  void Publish(const SlotRead& read);
  void CountHit(const SlotRead& read);

  void AnswerFinished();
  void Reap(uint32_t index);
  void ExpireDue(int64_t now_ns);
  void Answer(int event_fd, uint32_t response);
  void AdoptSlot(uint32_t index);
  void RefuseEverything();

  void Hold(uint32_t index, int event_fd, int64_t deadline_ns);
  void Unlink(uint32_t index);
  void Release(uint32_t index);

  Journal& journal_;
  Counters& counters_;
  const int group_;
  const int completions_;
  const FileId canary_;

  // Owned by the door's thread once it runs.
  Descriptor poll_;
  InodeTable blobs_;
  std::vector<Held> held_;
  std::vector<uint32_t> free_;
  uint32_t first_waiting_ = kNone;  // by deadline, earliest first; the expired ones are not in the list
  uint32_t last_waiting_ = kNone;
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

// Makes sure that the kernel gives no new event a number under which the journal knows an older one: occupies
// all of them. Fails with EPROTO if the journal names a number that this process uses itself. The door closes
// them as their reads are answered.
Outcome ReserveEventNumbers(Journal& journal);

}  // namespace sluice::keeper
