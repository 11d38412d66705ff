#include "p2p/swarm/swarm_torrent.h"

#include <algorithm>
#include <utility>

namespace sluice::p2p {
namespace {

uint64_t NextId() {
  static std::atomic<uint64_t> next{1};
  return next++;
}

int64_t Ticks(Instant at) {
  return at.time_since_epoch().count();
}

bool IsSet(const std::vector<bool>& bits, ChunkIndex index) {
  return index.value() < bits.size() && bits[index.value()];
}

}  // namespace

SwarmTorrent::SwarmTorrent(Recipe torrent_recipe, Role first_role, Instant now)
    : id(NextId()),
      recipe(std::move(torrent_recipe)),
      geometry(recipe.geometry()),
      role(first_role),
      last_block_(0),
      last_used_(Ticks(now)) {}

bool SwarmTorrent::Fits(const Blob& blob) const {
  return recipe.IsBoundBy(*blob.facts());
}

bool SwarmTorrent::Matches(ChunkIndex index, const std::vector<Digest>& leaves) const {
  const uint64_t length = geometry.RangeOf(index).length;
  if (leaves.size() != (length + kLeafBytes - 1) / kLeafBytes) return false;
  const Digest& expected = recipe.layer.empty() ? recipe.root : recipe.layer[index.value()];
  return FoldLeaves(geometry, leaves) == expected;
}

void SwarmTorrent::NoteBlock(Instant now) {
  last_block_ = Ticks(now);
  NoteUse(now);
}

void SwarmTorrent::NoteUse(Instant now) {
  last_used_ = Ticks(now);
}

Instant SwarmTorrent::last_used() const {
  return Instant(Duration(last_used_.load()));
}

void SwarmTorrent::SetView(FillView view, Instant now) {
  const bool any = std::find(view.offered.begin(), view.offered.end(), true) != view.offered.end();
  std::lock_guard lock(mutex_);
  if (!any) {
    offered_since_ = Instant{};
  } else if (offered_since_ == Instant{}) {
    offered_since_ = now;
  }
  view_ = std::move(view);
  seen_ = true;
}

bool SwarmTorrent::Carries(ChunkIndex index, Instant joined, Instant now) const {
  if (gone) return false;
  const Instant last_block{Duration(last_block_.load())};
  std::lock_guard lock(mutex_);
  if (offered_since_ == Instant{}) return now < joined + kJoinGrace && (!seen_ || view_.connecting);
  if (now >= std::max(last_block, offered_since_) + kNoProgressTime) return false;
  return IsSet(view_.offered, index) && !IsSet(view_.stalled, index);
}

bool SwarmTorrent::WantAnnounced(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  if (offering_.contains(index) || announcing_.contains(index)) return false;
  to_announce_.emplace(index, 0);
  return true;
}

bool SwarmTorrent::NextToAnnounce(Instant now, ChunkIndex& index) {
  std::lock_guard lock(mutex_);
  if (to_announce_.empty()) return false;
  const auto next = to_announce_.begin();
  index = next->first;
  announcing_[index] = {now, next->second + 1};
  to_announce_.erase(next);
  return true;
}

bool SwarmTorrent::EndAnnouncement(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  to_announce_.erase(index);
  return announcing_.erase(index) > 0;
}

size_t SwarmTorrent::AnnouncementsUnderWay(Instant now) {
  std::lock_guard lock(mutex_);
  std::erase_if(announcing_, [&](const auto& entry) {
    const auto& [made, tries] = entry.second;
    if (now < made + kAnnounceTime) return false;
    if (tries < kAnnounceTriesMax) to_announce_.emplace(entry.first, tries);
    return true;
  });
  return announcing_.size();
}

void SwarmTorrent::SetOffering(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  offering_.insert(index);
}

void SwarmTorrent::EndOffering(ChunkIndex index) {
  std::lock_guard lock(mutex_);
  offering_.erase(index);
}

}  // namespace sluice::p2p
