#include "node/daemon/root_vouchers.h"

namespace sluice {

void RootVouchers::Note(const Digest& blob, const Digest& root, const std::string& manifest) {
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = manifests_.insert_or_assign({blob, root}, manifest);
  if (!is_new) return;
  order_.push_back(place->first);
  if (order_.size() <= kKeptMax) return;
  manifests_.erase(order_.front());
  order_.pop_front();
}

std::string RootVouchers::Find(const Digest& blob, const Digest& root) const {
  const std::lock_guard lock(mutex_);
  const auto found = manifests_.find({blob, root});
  return found == manifests_.end() ? std::string() : found->second;
}

}  // namespace sluice
