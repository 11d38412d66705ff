#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice::p2p {

// Which members are worth asking just now. One that failed is skipped for a while, twice as long after each
// failure in a row; that changes only whom this node asks, never who is a member.
//
// Thread-safe; pure but for its lock: the clock is handed in.
class MemberHealth {
 public:
  static constexpr Duration kSkipFirst = std::chrono::seconds(1);
  static constexpr Duration kSkipMax = std::chrono::seconds(60);
  // After a chunk that was not what its recipe promises.
  static constexpr Duration kSkipWrong = std::chrono::seconds(60);
  static constexpr size_t kEntriesMax = 20000;  // beyond, all is forgotten

  bool Usable(const std::string& member, Instant now) const;
  // Returns how long it is skipped; 0 if it was skipped already.
  Duration Failed(const std::string& member, Instant now);
  void Succeeded(const std::string& member);
  void SentWrong(const std::string& member, Instant now);

  // A number for the member, the same as long as this lives; and back (empty if there is none).
  SenderId IdOf(const std::string& member);
  std::string NameOf(SenderId id) const;

 private:
  struct Entry {
    SenderId id = 0;
    uint32_t failures = 0;  // in a row
    Instant skipped_until{};
  };
  Entry& EntryOf(const std::string& member);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  absl::flat_hash_map<std::string, Entry> entries_;
  absl::flat_hash_map<SenderId, std::string> names_;
  SenderId next_id_ = 1;
};

}  // namespace sluice::p2p
