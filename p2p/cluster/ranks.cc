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
std::vector<Member> Best(const MemberView& view, const MemberHealth& health, size_t count_max, Instant now,
                         const RankOf& rank_of) {
  std::vector<Rank> ranks;
  for (size_t i = 0; i < view.members.size(); ++i) {
    if (!view.members[i].is_self && health.Usable(view.members[i].name, now)) ranks.push_back(rank_of(i));
  }
  const size_t count = std::min(count_max, ranks.size());
  std::partial_sort(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count), ranks.end());
  std::vector<Member> best;
  for (size_t i = 0; i < count; ++i) best.push_back(view.members[ranks[i].position]);
  return best;
}

}  // namespace

std::shared_ptr<const BlobHomes> HomesCache::HomesOf(const Digest& blob, uint64_t blob_size,
                                                     const MemberView& view) {
  const std::shared_ptr<Entry> entry = EntryOf({blob, blob_size, view.id});
  std::call_once(entry->computed, [&] {
    std::vector<uint64_t> keys;
    for (const Member& member : view.members) keys.push_back(member.score_key);
    entry->homes.blob_key = ScoreKeyOf(blob);
    entry->homes.of_stripe = AssignHomes(entry->homes.blob_key, StripeCount(blob_size), keys);
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
  return Best(view, health, count_max, now, [&](size_t i) {
    return Rank{homes.of_stripe[stripe] == i, Score(homes.blob_key, stripe, view.members[i].score_key), i};
  });
}

std::vector<Member> RanksOfBlob(const MemberView& view, const Digest& blob, const MemberHealth& health,
                                size_t count_max, Instant now) {
  const uint64_t blob_key = ScoreKeyOf(blob);
  return Best(view, health, count_max, now, [&](size_t i) {
    return Rank{false, BlobScore(blob_key, view.members[i].score_key), i};
  });
}

}  // namespace sluice::p2p
