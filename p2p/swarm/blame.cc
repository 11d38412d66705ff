#include "p2p/swarm/blame.h"

#include <algorithm>
#include <set>

namespace sluice::p2p {
namespace {

bool HadAPart(const std::vector<std::string>& senders, const std::string& peer) {
  return std::find(senders.begin(), senders.end(), peer) != senders.end();
}

}  // namespace

std::vector<std::string> BlameLedger::NoteBad(const Digest& blob, ChunkIndex piece,
                                              std::vector<Digest> leaves, std::vector<std::string> senders) {
  const std::set<std::string> distinct(senders.begin(), senders.end());
  if (distinct.size() == 1) {
    Clear({*distinct.begin()});
    return {*distinct.begin()};
  }
  while (open_.size() >= kOpenBadPiecesMax) {
    open_.erase(std::min_element(open_.begin(), open_.end(), [](const auto& a, const auto& b) {
      return a.first.second < b.first.second;
    }));
  }
  open_.emplace(Key{{blob, piece}, next_++}, BadPiece{std::move(leaves), std::move(senders)});

  std::map<std::string, size_t> strikes;
  for (const auto& [key, bad] : open_) {
    for (const std::string& peer : std::set<std::string>(bad.senders.begin(), bad.senders.end()))
      ++strikes[peer];
  }
  size_t most = kStrikesMax;
  for (const auto& [peer, count] : strikes) most = std::max(most, count);
  std::vector<std::string> liars;
  for (const auto& [peer, count] : strikes) {
    if (count == most) liars.push_back(peer);
  }
  Clear(liars);
  return liars;
}

std::vector<std::string> BlameLedger::NoteGood(const Digest& blob, ChunkIndex piece,
                                               const std::vector<Digest>& leaves) {
  std::set<std::string> liars;
  const auto first = open_.lower_bound(Key{{blob, piece}, 0});
  auto end = first;
  for (; end != open_.end() && end->first.first == std::pair(blob, piece); ++end) {
    const BadPiece& bad = end->second;
    for (size_t i = 0; i < std::min(leaves.size(), bad.leaves.size()); ++i) {
      if (bad.leaves[i] != leaves[i]) liars.insert(bad.senders[i]);
    }
  }
  open_.erase(first, end);
  std::vector<std::string> refused(liars.begin(), liars.end());
  Clear(refused);
  return refused;
}

// What liars had a part in says nothing about the others who had.
void BlameLedger::Clear(const std::vector<std::string>& liars) {
  for (const std::string& liar : liars) {
    std::erase_if(open_, [&](const auto& entry) { return HadAPart(entry.second.senders, liar); });
  }
}

}  // namespace sluice::p2p
