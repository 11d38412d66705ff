#include "node/ban_list.h"

#include <algorithm>

namespace sluice {

bool BanList::Ban(const std::string& address, Instant now, size_t member_count) {
  Expire(now);
  if (!until_.contains(address) && until_.size() + 1 > std::max<size_t>(1, member_count / 4)) return false;
  until_[address] = now + kBanTime;
  return true;
}

bool BanList::IsBanned(const std::string& address, Instant now) const {
  return BannedFor(address, now) > Duration(0);
}

Duration BanList::BannedFor(const std::string& address, Instant now) const {
  const auto found = until_.find(address);
  return found == until_.end() ? Duration(0) : std::max(Duration(0), found->second - now);
}

bool BanList::Expire(Instant now) {
  return std::erase_if(until_, [&](const auto& entry) { return entry.second <= now; }) > 0;
}

}  // namespace sluice
