#include "p2p/cluster/member_health.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sluice::p2p {
namespace {

int64_t MinuteOf(Instant now) {
  return std::chrono::floor<std::chrono::minutes>(now).time_since_epoch().count();
}

}  // namespace

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

void MemberHealth::ProbeBy(std::shared_ptr<MemberProber> prober) {
  const std::lock_guard lock(mutex_);
  prober_ = std::move(prober);
}

void MemberHealth::Probed(const std::string& member) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  if (found != entries_.end()) found->second.awaits_probe = false;
}

bool MemberHealth::AwaitsProbe(const std::string& member) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  return found != entries_.end() && found->second.awaits_probe;
}

// Its time is over, and nobody knows yet whether it is there.
bool MemberHealth::IsHalfOpen(const Entry& entry, Instant now) {
  return entry.awaits_probe && entry.skipped_until <= now && now < entry.skipped_until + kUnprobedMax;
}

bool MemberHealth::Usable(const Member& member, Instant now) const {
  if (!Usable(member.name, now)) return false;
  const std::lock_guard lock(mutex_);
  if (bans_.empty()) return true;
  return !bans_.IsBanned(member.address.ToString(), now) &&
         std::none_of(member.more_addresses.begin(), member.more_addresses.end(),
                      [&](const HostPort& address) { return bans_.IsBanned(address.ToString(), now); });
}

bool MemberHealth::Usable(const std::string& member, Instant now) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  return found == entries_.end() || (found->second.skipped_until <= now && !IsHalfOpen(found->second, now));
}

Duration MemberHealth::Failed(const std::string& member, Instant now, std::string_view why) {
  const std::lock_guard lock(mutex_);
  return FailedLocked(member, now, why);
}

Duration MemberHealth::FailedLocked(const std::string& member, Instant now, std::string_view why) {
  Entry& entry = EntryOf(member);
  ++entry.requests;
  ++entry.failures;
  // Requests that were under way together fail together: that is one failure.
  if (entry.skipped_until > now) return Duration(0);
  const Duration skip = std::min(kSkipMax, kSkipFirst * (1 << std::min(entry.failures_in_row, 6u)));
  ++entry.failures_in_row;
  Skip(entry, member, now, skip, why);
  return skip;
}

// REQUIRES: mutex_ is held
void MemberHealth::Skip(Entry& entry, const std::string& member, Instant now, Duration length,
                        std::string_view why) {
  entry.skipped_until = now + length;
  entry.skip_reason = why.substr(0, kReasonBytesMax);
  if (!prober_) return;
  entry.awaits_probe = true;
  prober_->ProbeAfter(member, length);
}

void MemberHealth::NoteOutrun(const std::string& member) {
  const std::lock_guard lock(mutex_);
  ++EntryOf(member).outrun;
}

Duration MemberHealth::Stalled(const std::string& member, Instant now, std::string_view why) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  // What it was asked for at once is outrun at once.
  if (entry.skipped_until > now || ++entry.stalled_in_row < kStalledMax) return Duration(0);
  const Duration skip =
      std::min(kSkipMax, kSkipStalled * (1 << std::min(entry.stalled_in_row - kStalledMax, 6u)));
  ++entry.failures;
  Skip(entry, member, now, skip, why);
  return skip;
}

Duration MemberHealth::BrokeOff(const std::string& member, Instant now, std::string_view why) {
  const std::lock_guard lock(mutex_);
  if (++EntryOf(member).broken_off_in_row < kBrokenOffMax) return Duration(0);
  return FailedLocked(member, now, why);
}

// What it was asked for together is quiet together.
Duration MemberHealth::WasQuiet(const std::string& member, Instant now, std::string_view why) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  if (entry.quiet_since == Instant()) entry.quiet_since = now;
  return now < entry.quiet_since + kQuietApart ? Duration(0) : FailedLocked(member, now, why);
}

void MemberHealth::Succeeded(const std::string& member) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  ++entry.requests;
  entry.quiet_since = Instant();
  entry.failures_in_row = 0;
  entry.awaits_probe = false;
}

void MemberHealth::SentWrong(const std::string& member, Instant now, std::string_view what) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  NoteBlame(entry, now, what);
  if (now + kSkipWrong < entry.skipped_until) return;
  entry.skipped_until = now + kSkipWrong;
  entry.skip_reason = "it sent wrong bytes";
}

void MemberHealth::NoteBlame(Entry& entry, Instant now, std::string_view what) {
  ++entry.wrong_answers;
  entry.blame = what.substr(0, kReasonBytesMax);
  entry.blamed = now;
}

MemberHealth::Banned MemberHealth::Ban(const Member& member, Instant now, size_t member_count,
                                       std::string_view what) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member.name);
  if (now >= entry.blamed + kBanTime) entry.unbanned_in_row = 0;
  NoteBlame(entry, now, what);
  const std::string address = member.address.ToString();
  const bool is_banned = bans_.IsBanned(address, now);
  if (!bans_.Ban(address, now, member_count)) {
    // What was under way together is wrong together.
    if (entry.skipped_until > now) return Banned::kNot;
    const Duration length = std::min(kSkipMax, kSkipFirst * (1 << std::min(entry.unbanned_in_row++, 6u)));
    Skip(entry, member.name, now, length, "it sent wrong bytes");
    return Banned::kNot;
  }
  entry.banned_address = address;
  return is_banned ? Banned::kAgain : Banned::kNewly;
}

void MemberHealth::RecentBytes::PassTo(int64_t minute) {
  if (minute - last_minute >= static_cast<int64_t>(of_minute.size()))
    of_minute.fill(0);
  else
    while (last_minute < minute) of_minute[static_cast<size_t>(++last_minute) % of_minute.size()] = 0;
  last_minute = std::max(last_minute, minute);
}

void MemberHealth::Received(const std::string& member, uint64_t bytes, Instant now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = EntryOf(member);
  entry.broken_off_in_row = 0;
  entry.stalled_in_row = 0;
  RecentBytes& recent = entry.recent;
  recent.PassTo(MinuteOf(now));
  recent.of_minute[static_cast<size_t>(recent.last_minute) % kRecentMinutes] += bytes;
}

MemberHealth::Record MemberHealth::RecordOf(const std::string& member, Instant now) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(member);
  if (found == entries_.end()) return {};
  const Entry& entry = found->second;
  RecentBytes recent = entry.recent;
  recent.PassTo(MinuteOf(now));
  Record record;
  record.requests = entry.requests;
  record.failures = entry.failures;
  record.outrun = entry.outrun;
  record.recent_bytes = std::accumulate(recent.of_minute.begin(), recent.of_minute.end(), uint64_t{0});
  record.wrong_answers = entry.wrong_answers;
  record.blame = entry.blame;
  if (entry.skipped_until > now) {
    record.skipped_for = entry.skipped_until - now;
    record.skip_reason = entry.skip_reason;
  } else if (IsHalfOpen(entry, now)) {
    record.skipped_for = kProbeTakes;
    record.skip_reason = entry.skip_reason;
  }
  if (const Duration banned_for = bans_.BannedFor(entry.banned_address, now); banned_for > Duration(0)) {
    record.skipped_for = std::max(record.skipped_for, banned_for);
    record.skip_reason = "banned, for it sent wrong bytes";
  }
  if (entry.wrong_answers > 0) record.blame_age = now - entry.blamed;
  return record;
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
