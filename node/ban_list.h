#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "node/executor.h"

namespace sluice {

inline constexpr Duration kBanTime = std::chrono::minutes(10);

// Whom this node refuses for a while. Local, by address, told to nobody. One thread at a time. Source:
// PEERS.md, "Blame".
class BanList {
 public:
  // Refuses the peer for kBanTime from `now` on. Returns false, having done nothing, if so many are refused
  // that one more would be over a quarter of the members: then something else is wrong. One may always be.
  bool Ban(const std::string& address, Instant now, size_t member_count);
  bool IsBanned(const std::string& address, Instant now) const;
  // How long it goes on; 0: it is not banned.
  Duration BannedFor(const std::string& address, Instant now) const;
  bool empty() const { return until_.empty(); }
  // Lets those go whose time is over. Returns whether there were any.
  bool Expire(Instant now);

 private:
  std::map<std::string, Instant> until_;
};

}  // namespace sluice
