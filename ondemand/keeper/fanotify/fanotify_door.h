#pragma once

#include <cstdint>

#include "ondemand/keeper/door.h"
#include "ondemand/keeper/fanotify/watch.h"
#include "ondemand/keeper/inode_table.h"

struct fanotify_event_metadata;

namespace sluice::keeper {

// The door that is made of a fanotify group's events (fanotify(7), FAN_PRE_ACCESS).
class FanotifyDoor final : public Door {
 public:
  FanotifyDoor(Journal& journal, Watch watch, int completions);
  ~FanotifyDoor() override { Stop(); }

  // Cheap; never fails.
  Outcome Guard(uint32_t entry) override;
  void Forget(uint32_t entry) override;
  // By an ignore mark. Errors: as SetIgnoreMark.
  Outcome MarkComplete(const BlobRecord& record) override;
  Outcome ClearComplete(const BlobRecord& record) override;
  // By a mark on the file itself. Errors: as WatchFile.
  Outcome WatchOrphaned(const BlobRecord& record) override;
  // Reads the canary. Errors: as ProveWatch.
  Outcome Prove() override;

 private:
  enum class Lookup { kPresent, kAbsent, kChanged, kRefused };

  void ReadRequests() override;
  Answered Answer(uint32_t index, const SlotRead& read, int verdict) override;
  void LetGo(const SlotRead& read) override;
  void AdoptOthers() override;
  void RefuseQueued() override;

  void HandleEvent(const fanotify_event_metadata& event);
  bool IsOurDaemons(int32_t thread) const;
  Lookup Classify(const fanotify_event_metadata& event, SlotRead& read);
  void Respond(int event_fd, int verdict);
  void Insert(uint32_t entry);

  const Watch watch_;
  InodeTable blobs_;  // of the door's thread
};

// Makes sure that the kernel gives no new event a number under which the journal knows an older one: occupies
// all of them. Fails with EPROTO if the journal names a number that this process uses itself. The door closes
// them as their reads are answered. REQUIRES: the journal is a fanotify door's
Outcome ReserveEventNumbers(Journal& journal);

}  // namespace sluice::keeper
