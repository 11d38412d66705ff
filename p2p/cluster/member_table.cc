#include "p2p/cluster/member_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/http/url.h"

namespace sluice::p2p {
namespace {

constexpr int kFreshPart = 3;  // of the TTL, for which an age is worth telling

bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// Names stand in lists with commas between them, and in quotes.
bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= MemberRow::kNameBytesMax && IsPrintable(text) &&
         text.find_first_of(",\"\\") == std::string::npos;
}

uint64_t HashOf(const MemberRow& row) {
  // Names, zones and addresses have no line breaks.
  std::string text = absl::StrCat(row.name, "\n", row.zone, "\n", row.protocol, "\n", row.start);
  for (const HostPort& address : row.addresses) absl::StrAppend(&text, "\n", address.ToString());
  return ScoreKeyOf(text);
}

bool SharesAddress(const MemberRow& a, const MemberRow& b) {
  return std::any_of(a.addresses.begin(), a.addresses.end(), [&](const HostPort& address) {
    return std::binary_search(b.addresses.begin(), b.addresses.end(), address);
  });
}

// Where it was found is its address too, if there is room.
void AddAddress(MemberRow& row, const HostPort& address) {
  const auto place = std::lower_bound(row.addresses.begin(), row.addresses.end(), address);
  if (place != row.addresses.end() && *place == address) return;
  if (row.addresses.size() < MemberRow::kAddressesMax) row.addresses.insert(place, address);
}

}  // namespace

absl::Status MemberRow::Validate() const {
  if (!IsName(name)) {
    return absl::InvalidArgumentError(
        "a member's name is 1 to 253 printable ASCII characters without a space, comma, quotation mark or "
        "backslash");
  }
  if (zone.size() > kZoneBytesMax || !IsPrintable(zone))
    return absl::InvalidArgumentError("a zone is at most 63 printable characters without a space");
  if (addresses.size() > kAddressesMax) return absl::InvalidArgumentError("more than 8 addresses");
  for (const HostPort& address : addresses) {
    if (address.port == 0 || !IsIpLiteral(address.host))
      return absl::InvalidArgumentError("an address is no IP literal with a port");
  }
  // Sorted and each once, or equal rows would hash otherwise.
  for (size_t i = 1; i < addresses.size(); ++i) {
    if (addresses[i] <= addresses[i - 1]) return absl::InvalidArgumentError("addresses are not in order");
  }
  return absl::OkStatus();
}

size_t RowBucketOf(const std::string& name) {
  return ScoreKeyOf(name) % kRowBuckets;
}

MemberTable::MemberTable(MemberRow self, Duration ttl)
    : self_(std::move(self)), ttl_(ttl), self_hash_(HashOf(self_)) {
  self_addresses_.insert(self_.addresses.begin(), self_.addresses.end());
}

bool MemberTable::MayBeAt(const HostPort& address) const {
  const auto is_loopback = [](const HostPort& some) {
    return NamesLoopback(some.host) || IsWildcard(some.host);
  };
  if (!is_loopback(address) || listed_.contains(address) || resolved_.contains(address)) return true;
  if (!self_.addresses.empty())
    return std::all_of(self_.addresses.begin(), self_.addresses.end(), is_loopback);
  return !self_addresses_.empty() && std::all_of(self_addresses_.begin(), self_addresses_.end(), is_loopback);
}

MemberTable::Merge MemberTable::HeardFrom(MemberRow row, const HostPort& at, Instant now) {
  std::erase_if(row.addresses, [&](const HostPort& address) { return !MayBeAt(address); });
  AddAddress(row, at);
  if (!row.Validate().ok() || row.protocol != kProtocolMajor) return Merge::kRefused;
  silent_unnamed_.erase(at);
  rumours_.erase(at);
  if (row.name == self_.name) {
    if (row.start != self_.start) {
      NoteTwin(std::move(row), now);
      return Merge::kTwin;
    }
    NoteSelf(at);
    return Merge::kSelf;
  }
  if (const auto known = others_.find(row.name); known != others_.end()) {
    const Entry& entry = known->second;
    if (row.start == entry.row.start) {
      for (const HostPort& address : entry.row.addresses) AddAddress(row, address);
    } else if (row.start < entry.row.start && entry.contact != Contact::kSilent &&
               !SharesAddress(row, entry.row)) {
      // At one address only one lives, whatever its clock says.
      NoteTwin(std::move(row), now);
      return Merge::kTwin;
    }
  }
  forgotten_.erase(row.name);
  return Put(std::move(row), now, Contact::kAnswered, now, &at);
}

void MemberTable::NoteTwin(MemberRow row, Instant now) {
  const std::string name = row.name;
  if (twins_.size() == kTwinsMax && !twins_.contains(name)) return;
  Entry& twin = twins_[name];
  twin.row = std::move(row);
  twin.heard = twin.contact_at = now;
  twin.contact = Contact::kAnswered;
}

MemberTable::Merge MemberTable::Hear(Told told, Instant now) {
  std::erase_if(told.row.addresses, [&](const HostPort& address) { return !MayBeAt(address); });
  if (!told.row.Validate().ok() || told.row.addresses.empty() || told.row.protocol != kProtocolMajor)
    return Merge::kRefused;
  if (told.age < Duration(0) || told.age >= ttl_) return Merge::kRefused;
  // Nobody else knows better.
  if (told.row.name == self_.name)
    return told.row.start > self_.start && !SharesAddress(told.row, self_) ? Merge::kTwin : Merge::kSelf;
  const Instant heard = now - told.age;
  const auto known = others_.find(told.row.name);
  if (known == others_.end()) {
    const auto gone = forgotten_.find(told.row.name);
    if (gone != forgotten_.end() && told.row.start <= gone->second.start && heard <= gone->second.heard)
      return Merge::kRefused;
    return Put(std::move(told.row), heard, Contact::kNone, now);
  }
  Entry& entry = known->second;
  if (told.row.start < entry.row.start) {
    // Who was heard after the other fell silent outlives it, whatever the numbers say.
    const bool outlives = entry.contact == Contact::kSilent && heard > entry.contact_at;
    return outlives ? Put(std::move(told.row), heard, Contact::kNone, now) : Merge::kNothingNew;
  }
  const bool started_again = told.row.start > entry.row.start;
  if (!started_again) entry.heard = std::max(entry.heard, heard);
  if (Answers(entry, now)) {
    for (const HostPort& address : told.row.addresses) {
      if (started_again ||
          !std::binary_search(entry.row.addresses.begin(), entry.row.addresses.end(), address))
        NoteRumour(address, now);
    }
    return Merge::kNothingNew;
  }
  if (started_again) return Put(std::move(told.row), heard, Contact::kNone, now);
  // Of one process the longer list of addresses is the later one: they are only added.
  const bool more =
      told.row.addresses.size() > entry.row.addresses.size() ||
      (told.row.addresses.size() == entry.row.addresses.size() && told.row.addresses > entry.row.addresses);
  if (!more) return Merge::kNothingNew;
  return Put(std::move(told.row), heard, Contact::kNone, now);
}

void MemberTable::HearAge(const ToldAge& told, Instant now) {
  const auto known = others_.find(told.name);
  if (known == others_.end() || known->second.row.start != told.start) return;
  if (told.age >= Duration(0) && told.age < ttl_)
    known->second.heard = std::max(known->second.heard, now - told.age);
}

bool MemberTable::Answers(const Entry& entry, Instant now) const {
  return entry.contact == Contact::kAnswered && now - entry.contact_at < ttl_;
}

void MemberTable::NoteRumour(const HostPort& address, Instant now) {
  if (rumours_.size() < kRumoursMax) rumours_.emplace(address, now);
}

bool MemberTable::IsKept(const HostPort& address, const MemberRow& by, Instant now) {
  const auto name = names_.find(address);
  if (name == names_.end() || name->second == by.name) return false;
  const auto owner = others_.find(name->second);
  if (owner == others_.end()) return false;
  if (owner->second.row.start > by.start) return true;
  if (!Answers(owner->second, now)) return false;
  NoteRumour(address, now);
  return true;
}

MemberTable::Merge MemberTable::Put(MemberRow row, Instant heard, Contact contact, Instant now,
                                    const HostPort* at) {
  const auto known = others_.find(row.name);
  if (known == others_.end() && others_.size() == kRowsMax) return Merge::kRefused;
  // Addresses are used again: hearsay of who had one before takes it from nobody, and whoever answers only
  // the one where he does.
  std::erase_if(row.addresses, [&](const HostPort& address) {
    return (!at || address != *at) && IsKept(address, row, now);
  });
  if (row.addresses.empty()) return Merge::kRefused;

  Entry fresh{row, heard, contact, now, HashOf(row), RowBucketOf(row.name)};
  bool same = false;
  if (known != others_.end()) {
    const Entry& entry = known->second;
    same = entry.row == row;
    // Whoever started again has not been asked yet.
    if (entry.row.start == row.start && contact == Contact::kNone) {
      fresh.heard = std::max(heard, entry.heard);
      fresh.contact = entry.contact;
      fresh.contact_at = entry.contact_at;
    }
    for (const HostPort& address : entry.row.addresses) names_.erase(address);
  }
  for (const HostPort& address : row.addresses) TakeAddress(address, row.name, now);
  others_.insert_or_assign(row.name, std::move(fresh));
  return same ? Merge::kNothingNew : Merge::kNew;
}

void MemberTable::TakeAddress(const HostPort& address, const std::string& by, Instant now) {
  silent_unnamed_.erase(address);
  const auto [name, added] = names_.emplace(address, by);
  if (added) return;
  const auto before = others_.find(std::exchange(name->second, by));
  if (before == others_.end() || before->first == by) return;
  Entry& entry = before->second;
  std::erase(entry.row.addresses, address);
  entry.hash = HashOf(entry.row);
  if (entry.row.addresses.empty()) Drop(before, now);
}

void MemberTable::Drop(std::map<std::string, Entry>::iterator entry, Instant now) {
  for (const HostPort& address : entry->second.row.addresses) {
    const auto name = names_.find(address);
    if (name != names_.end() && name->second == entry->first) names_.erase(name);
  }
  if (forgotten_.size() < kForgottenMax)
    forgotten_[entry->first] = {entry->second.row.start, entry->second.heard, now};
  others_.erase(entry);
}

void MemberTable::NoteSilence(const std::string& name, Instant now) {
  const auto entry = others_.find(name);
  if (entry == others_.end()) return;
  entry->second.contact = Contact::kSilent;
  entry->second.contact_at = now;
}

void MemberTable::NoteSilence(const HostPort& unnamed, Instant now) {
  rumours_.erase(unnamed);
  if (const auto name = names_.find(unnamed); name != names_.end()) return NoteSilence(name->second, now);
  if (listed_.contains(unnamed) || resolved_.contains(unnamed)) silent_unnamed_.insert(unnamed);
}

void MemberTable::SetAddresses(std::set<HostPort> listed, std::set<HostPort> resolved,
                               const std::set<HostPort>& resolved_now, Instant now) {
  listed_ = std::move(listed);
  resolved_ = std::move(resolved);
  std::erase_if(silent_unnamed_, [&](const HostPort& address) {
    return !listed_.contains(address) && !resolved_.contains(address);
  });
  const bool dns_answers = !resolved_.empty() && resolved_now.size() == resolved_.size();
  for (auto entry = others_.begin(); entry != others_.end();) {
    const auto current = entry++;
    const std::vector<HostPort>& addresses = current->second.row.addresses;
    const auto is_in = [&](const std::set<HostPort>& some) {
      return std::any_of(addresses.begin(), addresses.end(),
                         [&](const HostPort& address) { return some.contains(address); });
    };
    if (is_in(resolved_now)) {
      current->second.heard = now;
    } else if (dns_answers && !is_in(listed_) && current->second.contact == Contact::kSilent) {
      Drop(current, now);
    }
  }
}

void MemberTable::Expire(Instant now) {
  for (auto entry = others_.begin(); entry != others_.end();) {
    const auto current = entry++;
    if (now - current->second.heard >= ttl_) Drop(current, now);
  }
  std::erase_if(twins_, [&](const auto& twin) { return now - twin.second.heard >= ttl_; });
  std::erase_if(rumours_, [&](const auto& rumour) { return now - rumour.second >= ttl_; });
  std::erase_if(forgotten_, [&](const auto& gone) { return now - gone.second.dropped_at >= ttl_; });
}

std::vector<HostPort> MemberTable::Unnamed() const {
  std::set<HostPort> all = listed_;
  all.insert(resolved_.begin(), resolved_.end());
  std::vector<HostPort> unnamed;
  for (const HostPort& address : all) {
    if (!names_.contains(address) && !self_addresses_.contains(address)) unnamed.push_back(address);
  }
  return unnamed;
}

std::vector<HostPort> MemberTable::Rumoured() const {
  std::vector<HostPort> addresses;
  for (const auto& [address, since] : rumours_) addresses.push_back(address);
  return addresses;
}

void MemberTable::NoteSelf(const HostPort& address) {
  self_addresses_.insert(address);
}

const MemberTable::Entry* MemberTable::ServingTwin(Instant now) const {
  const auto twin = twins_.find(self_.name);
  const bool serves =
      twin != twins_.end() && twin->second.row.start > self_.start && now - twin->second.heard < ttl_;
  return serves ? &twin->second : nullptr;
}

bool MemberTable::IsCutOff(Instant now) const {
  size_t answered = 0;
  size_t silent = silent_unnamed_.size();
  for (const auto& [name, entry] : others_) {
    if (now - entry.contact_at >= ttl_) continue;
    answered += entry.contact == Contact::kAnswered;
    silent += entry.contact == Contact::kSilent;
  }
  // Of those that are known by their addresses alone nobody knows more than of this node.
  const size_t reached = 1 + others_.size() - silent + silent_unnamed_.size();
  return answered < silent || 2 * reached < 1 + others_.size() + Unnamed().size();
}

RowHashes MemberTable::Hashes() const {
  RowHashes hashes{};
  hashes[RowBucketOf(self_.name)] ^= static_cast<uint32_t>(self_hash_ >> 32);
  for (const auto& [name, entry] : others_) hashes[entry.bucket] ^= static_cast<uint32_t>(entry.hash >> 32);
  return hashes;
}

RowBucketSet MemberTable::OldBuckets(Instant now) const {
  RowBucketSet buckets = 0;
  for (const auto& [name, entry] : others_) {
    if (now - entry.heard > ttl_ / kFreshPart) buckets |= RowBucketSet{1} << entry.bucket;
  }
  return buckets;
}

std::vector<MemberTable::Told> MemberTable::RowsBeside(const RowHashes& theirs, Instant now) const {
  const RowHashes ours = Hashes();
  std::vector<Told> rows;
  for (const auto& [name, entry] : others_) {
    if (ours[entry.bucket] != theirs[entry.bucket]) rows.push_back({entry.row, now - entry.heard});
  }
  return rows;
}

std::vector<MemberTable::ToldAge> MemberTable::AgesOf(RowBucketSet buckets, Instant now) const {
  std::vector<ToldAge> ages;
  for (const auto& [name, entry] : others_) {
    if (!(buckets >> entry.bucket & 1)) continue;
    const Duration age = now - entry.heard;
    if (age <= ttl_ / kFreshPart) ages.push_back({name, entry.row.start, age});
  }
  return ages;
}

}  // namespace sluice::p2p
