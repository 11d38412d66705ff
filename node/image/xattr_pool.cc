#include "node/image/xattr_pool.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/types/span.h"
#include "p2p/http/text.h"

namespace sluice {

size_t XattrPool::XattrHash::operator()(const Xattr& xattr) const {
  return absl::HashOf(p2p::Abs(xattr.name), p2p::Abs(xattr.value));
}

size_t XattrPool::SetHash::operator()(Ids ids) const {
  return absl::HashOf(absl::MakeConstSpan(ids.data(), ids.size()));
}

bool XattrPool::SetEqual::operator()(XattrSetId a, Ids b) const {
  return std::ranges::equal(pool->Set(a), b);
}

XattrPool::XattrPool()
    : xattr_index_(0, XattrHash{this}, XattrEqual{this}),
      sets_(1),  // the empty one
      set_index_(0, SetHash{this}, SetEqual{this}) {}

std::span<const XattrId> XattrPool::Set(XattrSetId id) const {
  const SetRange& range = sets_[static_cast<size_t>(id)];
  return std::span(members_).subspan(range.first, range.size);
}

XattrId XattrPool::AddOne(const Xattr& xattr) {
  if (const auto known = xattr_index_.find(xattr); known != xattr_index_.end()) return *known;
  auto name = names_.find(p2p::Abs(xattr.name));
  if (name == names_.end()) name = names_.insert(p2p::Abs(texts_.Add(xattr.name))).first;
  const auto id = static_cast<XattrId>(xattrs_.size());
  xattrs_.push_back({p2p::Std(*name), texts_.Add(xattr.value)});
  xattr_index_.insert(id);
  return id;
}

XattrSetId XattrPool::Add(const std::map<std::string, std::string>& xattrs) {
  if (xattrs.empty()) return XattrSetId::kEmpty;
  std::vector<XattrId> ids;
  ids.reserve(xattrs.size());
  for (const auto& [name, value] : xattrs) ids.push_back(AddOne({name, value}));
  if (const auto known = set_index_.find(Ids(ids)); known != set_index_.end()) return *known;
  const auto id = static_cast<XattrSetId>(sets_.size());
  sets_.push_back({members_.size(), static_cast<uint32_t>(ids.size())});
  members_.insert(members_.end(), ids.begin(), ids.end());
  set_index_.insert(id);
  return id;
}

}  // namespace sluice
