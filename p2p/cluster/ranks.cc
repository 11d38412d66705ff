#include "p2p/cluster/ranks.h"

#include <algorithm>
#include <utility>

namespace sluice::p2p {
namespace {

// What puts one member before another. A tie goes to the lesser name.
struct Rank {
  bool home = false;
  uint64_t score = 0;
  size_t position = 0;

  bool operator<(const Rank& other) const {
    if (home != other.home) return home;
    return score != other.score ? score > other.score : position < other.position;
  }
};

template <typename RankOf>
void AppendBest(const std::vector<Member>& members, const MemberHealth& health, size_t count_max, Instant now,
                const RankOf& rank_of, std::vector<Member>& to) {
  std::vector<Rank> ranks;
  for (size_t i = 0; i < members.size(); ++i) {
    if (!members[i].is_self && health.Usable(members[i], now)) ranks.push_back(rank_of(members[i], i));
  }
  const size_t count = std::min(count_max - to.size(), ranks.size());
  std::partial_sort(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count), ranks.end());
  for (size_t i = 0; i < count; ++i) to.push_back(members[ranks[i].position]);
}

StripeRanks RanksOf(uint64_t blob_key, uint64_t stripe, MemberIndex home,
                    const std::vector<uint64_t>& member_keys) {
  StripeRanks ranks;
  ranks.fill(kNoMember);
  ranks[0] = home;
  std::array<uint64_t, kRanksAsked> scores{};
  for (size_t i = 0; i < member_keys.size(); ++i) {
    if (i == home) continue;
    MemberIndex member = static_cast<MemberIndex>(i);
    uint64_t score = Score(blob_key, stripe, member_keys[i]);
    if (ranks.back() != kNoMember && score <= scores.back()) continue;
    for (size_t rank = 1; rank < kRanksAsked; ++rank) {
      if (ranks[rank] != kNoMember && score <= scores[rank]) continue;
      std::swap(ranks[rank], member);
      std::swap(scores[rank], score);
      if (member == kNoMember) break;
    }
  }
  return ranks;
}

// The members of this node's zone, where there are others.
std::vector<MemberIndex> OwnZone(const MemberView& view) {
  const auto self = std::find_if(view.members.begin(), view.members.end(),
                                 [](const Member& member) { return member.is_self; });
  std::vector<MemberIndex> own;
  if (self == view.members.end() || !self->zone || self->zone->empty()) return own;
  for (size_t i = 0; i < view.members.size(); ++i) {
    if (view.members[i].zone == self->zone) own.push_back(static_cast<MemberIndex>(i));
  }
  if (own.size() == view.members.size()) own.clear();
  return own;
}

// Who fetches each stripe from other zones for this one, as homes are chosen among its members alone.
std::vector<StripeRanks> RanksOfZone(uint64_t blob_key, size_t stripes, const std::vector<MemberIndex>& zone,
                                     const std::vector<uint64_t>& member_keys) {
  std::vector<uint64_t> keys;
  for (const MemberIndex member : zone) keys.push_back(member_keys[member]);
  const std::vector<MemberIndex> homes = AssignHomes(blob_key, stripes, keys);
  std::vector<StripeRanks> ranks;
  for (size_t stripe = 0; stripe < stripes; ++stripe) {
    ranks.push_back(RanksOf(blob_key, stripe, homes[stripe], keys));
    for (MemberIndex& member : ranks.back()) {
      if (member != kNoMember) member = zone[member];
    }
  }
  return ranks;
}

}  // namespace

size_t RankOf(const StripeRanks& ranks, MemberIndex member) {
  if (member == kNoMember) return kRanks;
  return static_cast<size_t>(std::find(ranks.begin(), ranks.begin() + kRanks, member) - ranks.begin());
}

std::shared_ptr<const BlobHomes> HomesCache::FindHomes(const Digest& blob, uint64_t blob_size,
                                                       const MemberView& view) {
  std::shared_ptr<Entry> entry = EntryOf({blob, blob_size, view.id});
  if (!entry->computed.load(std::memory_order_acquire)) return nullptr;
  return {entry, &entry->homes};
}

std::shared_ptr<const BlobHomes> HomesCache::HomesOf(const Digest& blob, uint64_t blob_size,
                                                     const MemberView& view) {
  const std::shared_ptr<Entry> entry = EntryOf({blob, blob_size, view.id});
  std::call_once(entry->once, [&] {
    std::vector<uint64_t> keys;
    for (const Member& member : view.members) keys.push_back(member.score_key);
    entry->homes.blob_key = ScoreKeyOf(blob);
    if (!keys.empty())
      entry->homes.of_stripe = AssignHomes(entry->homes.blob_key, StripeCount(blob_size), keys);
    for (size_t stripe = 0; stripe < entry->homes.of_stripe.size(); ++stripe) {
      entry->homes.ranks.push_back(
          RanksOf(entry->homes.blob_key, stripe, entry->homes.of_stripe[stripe], keys));
    }
    if (const std::vector<MemberIndex> zone = OwnZone(view); !zone.empty() && !keys.empty())
      entry->homes.of_zone = RanksOfZone(entry->homes.blob_key, entry->homes.of_stripe.size(), zone, keys);
    entry->computed.store(true, std::memory_order_release);
    const std::lock_guard lock(mutex_);
    ++computed_;
  });
  return {entry, &entry->homes};
}

uint64_t HomesCache::computed_count() const {
  const std::lock_guard lock(mutex_);
  return computed_;
}

std::shared_ptr<HomesCache::Entry> HomesCache::EntryOf(const Key& key) {
  const std::lock_guard lock(mutex_);
  ++lookups_;
  if (const auto found = slots_.find(key); found != slots_.end()) {
    found->second.used = lookups_;
    return found->second.entry;
  }
  if (slots_.size() == kEntriesMax) {
    slots_.erase(std::min_element(slots_.begin(), slots_.end(), [](const auto& a, const auto& b) {
      return a.second.used < b.second.used;
    }));
  }
  return slots_.emplace(key, Slot{std::make_shared<Entry>(), lookups_}).first->second.entry;
}

std::vector<Member> RanksOfStripe(const MemberView& view, const BlobHomes& homes, uint64_t stripe,
                                  const MemberHealth& health, size_t count_max, Instant now) {
  std::vector<Member> ranks;
  const auto by_score = [&](const Member& member, size_t i) {
    return Rank{false, Score(homes.blob_key, stripe, member.score_key), i};
  };
  AppendBest(
      view.members, health, count_max, now,
      [&](const Member& member, size_t i) {
        Rank rank = by_score(member, i);
        rank.home = homes.of_stripe[stripe] == i;
        return rank;
      },
      ranks);
  AppendBest(view.unnamed, health, count_max, now, by_score, ranks);
  return ranks;
}

std::vector<Member> RanksOfBlob(const MemberView& view, const Digest& blob, const MemberHealth& health,
                                size_t count_max, Instant now) {
  const uint64_t blob_key = ScoreKeyOf(blob);
  const auto by_score = [&](const Member& member, size_t i) {
    return Rank{false, BlobScore(blob_key, member.score_key), i};
  };
  std::vector<Member> ranks;
  AppendBest(view.members, health, count_max, now, by_score, ranks);
  AppendBest(view.unnamed, health, count_max, now, by_score, ranks);
  return ranks;
}

std::vector<Member> NearRanksOfBlob(const MemberView& view, const Digest& blob, const MemberHealth& health,
                                    size_t count_max, Instant now) {
  const std::vector<Member> all =
      RanksOfBlob(view, blob, health, view.members.size() + view.unnamed.size(), now);
  const auto self = std::find_if(view.members.begin(), view.members.end(),
                                 [](const Member& member) { return member.is_self; });
  const bool has_zone = self != view.members.end() && self->zone && !self->zone->empty();
  std::vector<Member> near, rest;
  for (const Member& member : all) {
    const bool is_near = has_zone && member.zone == self->zone && near.size() < (count_max + 1) / 2;
    std::vector<Member>& to = is_near ? near : rest;
    if (to.size() < count_max) to.push_back(member);
  }
  rest.resize(std::min(rest.size(), count_max - near.size()));
  near.insert(near.end(), rest.begin(), rest.end());
  return near;
}

namespace {

// In what belongs to a key. Of equals the lesser name is first, as in all ranks.
bool IsBefore(const Member& a, const Member& b, uint64_t key) {
  const uint64_t of_a = BlobScore(key, a.score_key), of_b = BlobScore(key, b.score_key);
  return of_a > of_b || (of_a == of_b && a.name < b.name);
}

auto FindSelf(const MemberView& view) {
  return std::find_if(view.members.begin(), view.members.end(),
                      [](const Member& member) { return member.is_self; });
}

}  // namespace

size_t MembersBeforeSelf(const MemberView& view, const Digest& key) {
  const auto self = FindSelf(view);
  if (self == view.members.end()) return view.members.size();
  const uint64_t score_key = ScoreKeyOf(key);
  return static_cast<size_t>(std::count_if(
      view.members.begin(), view.members.end(),
      [&](const Member& member) { return !member.is_self && IsBefore(member, *self, score_key); }));
}

std::vector<Member> RanksBeforeSelf(const MemberView& view, const Digest& key, const MemberHealth& health,
                                    size_t count_max, Instant now) {
  const auto self = FindSelf(view);
  const uint64_t score_key = ScoreKeyOf(key);
  std::vector<Member> ranks = RanksOfBlob(view, key, health, count_max, now);
  std::erase_if(ranks, [&](const Member& member) {
    if (std::none_of(view.members.begin(), view.members.end(),
                     [&](const Member& named) { return named.name == member.name; }))
      return true;
    return self != view.members.end() && !IsBefore(member, *self, score_key);
  });
  return ranks;
}

}  // namespace sluice::p2p
