#include "p2p/cluster/member_health.h"

#include <algorithm>

namespace sluice::p2p {

// REQUIRES: mutex_ is held
MemberHealth::Entry& MemberHealth::EntryOf(const std::string& member) {
  if (entries_.size() >= kEntriesMax && !entries_.contains(member)) {
    entries_.clear();
    names_.clear();
  }
  Entry& entry = entries_[member];
  if (entry.id == 0) {
    entry.id = next_id_++;
    names_[entry.id] = member;
  }
  return entry;
}

bool MemberHealth::Usable(const std::string& member, Instant now) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  return found == entries_.end() || found->second.skipped_until <= now;
}

Duration MemberHealth::Failed(const std::string& member, Instant now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  // Requests that were under way together fail together: that is one failure.
  if (entry.skipped_until > now) return Duration(0);
  const Duration skip = std::min(kSkipMax, kSkipFirst * (1 << std::min(entry.failures, 6u)));
  ++entry.failures;
  entry.skipped_until = now + skip;
  return skip;
}

void MemberHealth::Succeeded(const std::string& member) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  if (found != entries_.end()) found->second.failures = 0;
}

void MemberHealth::SentWrong(const std::string& member, Instant now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  entry.skipped_until = std::max(entry.skipped_until, now + kSkipWrong);
}

SenderId MemberHealth::IdOf(const std::string& member) {
  const std::lock_guard lock(mutex_);
  return EntryOf(member).id;
}

std::string MemberHealth::NameOf(SenderId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = names_.find(id);
  return found == names_.end() ? std::string() : found->second;
}

}  // namespace sluice::p2p
