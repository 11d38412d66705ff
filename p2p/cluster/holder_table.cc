#include "p2p/cluster/holder_table.h"

#include <algorithm>
#include <tuple>

namespace sluice::p2p {

void HolderTable::Add(const HeldBlob& held, const std::string& holder, Instant now) {
  const auto found = holders_.find(held.blob);
  if (found == holders_.end() && holders_.size() >= kBlobsMax) return;
  std::vector<Holder>& holders = found == holders_.end() ? holders_[held.blob] : found->second;
  const auto known =
      std::find_if(holders.begin(), holders.end(), [&](const Holder& h) { return h.name == holder; });
  if (known != holders.end()) {
    known->whole = held.whole;
    known->present_bytes = held.share_bytes();
    known->heard = now;
    return;
  }
  if (holders.size() >= kHoldersMax) {
    holders.erase(std::min_element(holders.begin(), holders.end(),
                                   [](const Holder& a, const Holder& b) { return a.heard < b.heard; }));
  }
  holders.push_back({holder, held.whole, held.share_bytes(), now});
}

void HolderTable::Remove(const BlobIdentity& blob, const std::string& holder) {
  RemoveIf(blob, [&](const Holder& h) { return h.name == holder; });
}

void HolderTable::NoteLacks(const BlobIdentity& blob, const std::string& holder) {
  RemoveIf(blob, [&](const Holder& h) { return h.name == holder && h.whole; });
}

void HolderTable::RemoveIf(const BlobIdentity& blob, const std::function<bool(const Holder&)>& goes) {
  const auto found = holders_.find(blob);
  if (found == holders_.end()) return;
  std::erase_if(found->second, goes);
  if (found->second.empty()) holders_.erase(found);
}

std::vector<std::string> HolderTable::Find(const BlobIdentity& blob, size_t count_max, Instant now,
                                           const std::function<size_t(size_t)>& random) const {
  std::vector<std::string> names;
  const auto found = holders_.find(blob);
  if (found == holders_.end()) return names;
  std::vector<const Holder*> living;
  for (const Holder& holder : found->second) {
    if (now - holder.heard < kTtl) living.push_back(&holder);
  }
  for (size_t i = living.size(); i > 1; --i) std::swap(living[i - 1], living[random(i)]);
  std::stable_partition(living.begin(), living.end(), [](const Holder* holder) { return holder->whole; });
  for (const Holder* const holder : living) {
    if (names.size() == count_max) break;
    names.push_back(holder->name);
  }
  return names;
}

std::vector<HolderShare> HolderTable::Shares(const BlobIdentity& blob, size_t count_max, Instant now) const {
  std::vector<HolderShare> shares;
  const auto found = holders_.find(blob);
  if (found == holders_.end()) return shares;
  for (const Holder& holder : found->second) {
    if (now - holder.heard < kTtl) shares.push_back({holder.name, holder.present_bytes});
  }
  std::sort(shares.begin(), shares.end(), [](const HolderShare& a, const HolderShare& b) {
    return std::tie(b.present_bytes, a.name) < std::tie(a.present_bytes, b.name);
  });
  if (shares.size() > count_max) shares.resize(count_max);
  return shares;
}

void HolderTable::Expire(Instant now) {
  absl::erase_if(holders_, [&](auto& entry) {
    std::erase_if(entry.second, [&](const Holder& holder) { return now - holder.heard >= kTtl; });
    return entry.second.empty();
  });
}

}  // namespace sluice::p2p
