#include "p2p/cluster/member_zones.h"

namespace sluice::p2p {

std::optional<std::string> MemberZones::Find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const Instant now = clock_.Now();
  if (members_ && (looked_ == Instant() || looked_ + kRefresh <= now)) {
    looked_ = now;
    zones_.clear();
    members_->Look([this](const MemberTable& table, Instant) {
      for (const auto& [member, entry] : table.others()) {
        if (entry.contact == MemberTable::Contact::kSilent || member.find(',') != std::string::npos) continue;
        zones_.emplace(member, entry.row.zone);
      }
    });
  }
  const auto found = zones_.find(name);
  if (found == zones_.end()) return std::nullopt;
  return found->second;
}

void MemberZones::Close() {
  const std::lock_guard lock(mutex_);
  members_ = nullptr;
  zones_.clear();
}

}  // namespace sluice::p2p
