#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "node/executor.h"
#include "p2p/cluster/members.h"

namespace sluice::p2p {

// The zones of the members that may be named to others: those of the table that were not silent when they
// were asked last, and whose names can stand in a list. Looks at the table once a second at most.
//
// Thread-safe; does not block.
class MemberZones {
 public:
  static constexpr Duration kRefresh = std::chrono::seconds(1);

  // The clock outlives this, the members until Close.
  MemberZones(const Clock& clock, const Members& members) : clock_(clock), members_(&members) {}

  // "" if it has none; nullopt if no member has that name.
  std::optional<std::string> Find(const std::string& name);
  // Knows nobody from now on, and looks at no table any more.
  void Close();

 private:
  const Clock& clock_;
  std::mutex mutex_;
  // Guarded by mutex_.
  const Members* members_;
  absl::flat_hash_map<std::string, std::string> zones_;
  Instant looked_{};
};

}  // namespace sluice::p2p
