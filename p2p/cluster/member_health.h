#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "node/ban_list.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "p2p/cluster/members.h"

namespace sluice::p2p {

// Port: asks members that failed whether they answer again. Implemented by MemberProbes.
//
// Thread-safe.
class MemberProber {
 public:
  virtual ~MemberProber() = default;

  // That member is to be asked so much later, and what that comes to told to MemberHealth. Must not call
  // back.
  virtual void ProbeAfter(const std::string& member, Duration delay) = 0;
};

// Which members are worth asking just now. One that failed is skipped for a while, twice as long after each
// failure in a row, and where there is a prober until it has answered that; one that is to blame for wrong
// chunks is banned. That changes only whom this node asks, never who is a member.
//
// Thread-safe; pure but for its lock: the clock is handed in.
class MemberHealth {
 public:
  static constexpr Duration kSkipFirst = std::chrono::seconds(1);
  static constexpr Duration kSkipMax = std::chrono::seconds(60);
  // After a document that was not what its digest says.
  static constexpr Duration kSkipWrong = std::chrono::seconds(60);
  static constexpr size_t kEntriesMax = 20000;  // beyond, all is forgotten
  // Who has not been probed for so long after its time is asked by whoever wants something.
  static constexpr Duration kUnprobedMax = std::chrono::minutes(2);
  static constexpr Duration kProbeTakes = std::chrono::milliseconds(1500);  // as far as anybody is told

  static constexpr uint32_t kBrokenOffMax = 3;
  static constexpr Duration kQuietApart = std::chrono::milliseconds(50);
  static constexpr uint32_t kStalledMax = 2;
  static constexpr Duration kSkipStalled = std::chrono::seconds(10);
  static constexpr size_t kReasonBytesMax = 200;  // kept of what was said
  static constexpr size_t kRecentMinutes = 10;

  // What asking a member came to, since this node started.
  struct Record {
    uint64_t requests = 0;      // that it answered, or that failed
    uint64_t failures = 0;      // of those
    uint64_t outrun = 0;        // chunks that another, asked later since it was late, gave first
    uint64_t recent_bytes = 0;  // of blobs, that it sent in the last kRecentMinutes
    uint64_t wrong_answers = 0;
    Duration skipped_for{};  // from now on, or banned; 0: it is asked
    std::string skip_reason;
    std::string blame;     // what it sent wrong last; empty: nothing
    Duration blame_age{};  // since then
  };

  // Who fails from now on is probed before it is asked for anything. Null: nobody is.
  void ProbeBy(std::shared_ptr<MemberProber> prober);
  // It has answered a probe, or there is nobody to be probed. What failed before counts on: it has shown that
  // it is there, not that it is of use.
  void Probed(const std::string& member);
  // Whether a probe is to say if it may be asked.
  bool AwaitsProbe(const std::string& member) const;

  // Neither skipped nor banned at one of its addresses.
  bool Usable(const Member& member, Instant now) const;
  // Whether one of that name is not skipped, wherever it is.
  bool Usable(const std::string& member, Instant now) const;
  // Returns how long it is skipped; 0 if it was skipped already.
  Duration Failed(const std::string& member, Instant now, std::string_view why = {});
  void Succeeded(const std::string& member);
  // `what` it sent that was wrong.
  void SentWrong(const std::string& member, Instant now, std::string_view what = {});
  // It is to blame for `what`: it is not asked at that address for kBanTime from now on, whatever its name.
  // Where no more may be banned it is skipped (kNot): for kSkipFirst, twice as long each time within
  // kBanTime, whatever else it has answered between.
  enum class Banned { kNewly, kAgain, kNot };
  Banned Ban(const Member& member, Instant now, size_t member_count, std::string_view what);
  // What it passed on as it came broke off, as it had said that it may: its own source may have ended. That
  // is a failure from kBrokenOffMax times in a row on, without anything that came whole between; returns as
  // Failed.
  Duration BrokeOff(const std::string& member, Instant now, std::string_view why);
  // It did not say soon whether it has what it was asked for, and was not waited for. Who is there may be
  // slow for a moment: it is a failure the second time in a row, at least kQuietApart after the first;
  // returns as Failed.
  Duration WasQuiet(const std::string& member, Instant now, std::string_view why);
  // Another, who was asked later because it was late, gave what it had been asked for first. It is counted,
  // no more: the other may just have had it.
  void NoteOutrun(const std::string& member);
  // It was outrun after it gave nothing for long but signs of life. That may happen to one that many ask;
  // from kStalledMax times in a row on, without a byte of it between, it is skipped for kSkipStalled, twice
  // as long each time; returns as Failed.
  Duration Stalled(const std::string& member, Instant now, std::string_view why);
  // Bytes of blobs came from it.
  void Received(const std::string& member, uint64_t bytes, Instant now);

  Record RecordOf(const std::string& member, Instant now) const;

  // A number for the member, the same as long as this lives; and back (empty if there is none).
  SenderId IdOf(const std::string& member);
  std::string NameOf(SenderId id) const;

 private:
  // Bytes of the last minutes.
  struct RecentBytes {
    std::array<uint64_t, kRecentMinutes> of_minute{};
    int64_t last_minute = 0;
    void PassTo(int64_t minute);
  };
  struct Entry {
    SenderId id = 0;
    uint32_t failures_in_row = 0;
    uint32_t broken_off_in_row = 0;
    Instant quiet_since{};  // Instant(): it has answered since
    uint32_t stalled_in_row = 0;
    uint32_t unbanned_in_row = 0;  // times that it was to blame and could not be banned
    Instant skipped_until{};
    bool awaits_probe = false;
    std::string skip_reason;
    uint64_t requests = 0;
    uint64_t failures = 0;
    uint64_t outrun = 0;
    uint64_t wrong_answers = 0;
    std::string blame;
    Instant blamed{};
    std::string banned_address;  // the last
    RecentBytes recent;
  };
  static bool IsHalfOpen(const Entry& entry, Instant now);
  Entry& EntryOf(const std::string& member);
  Duration FailedLocked(const std::string& member, Instant now, std::string_view why);
  void Skip(Entry& entry, const std::string& member, Instant now, Duration length, std::string_view why);
  void NoteBlame(Entry& entry, Instant now, std::string_view what);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<std::string, Entry> entries_;
  absl::flat_hash_map<SenderId, std::string> names_;
  BanList bans_;
  std::shared_ptr<MemberProber> prober_;
  SenderId next_id_ = 1;
};

}  // namespace sluice::p2p
