#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "node/image/text_arena.h"

namespace sluice {

// An extended attribute, name and value, by its place in a pool.
enum class XattrId : uint32_t {};
// All that a file has.
enum class XattrSetId : uint32_t { kEmpty = 0 };

// Keeps each extended attribute once, and each set of them once: files mostly have none, or those of their
// neighbours. Nothing leaves it. One thread at a time; not movable.
class XattrPool {
 public:
  struct Xattr {
    std::string_view name;  // in full, "security.capability"
    std::string_view value;

    friend bool operator==(const Xattr&, const Xattr&) = default;
  };

  XattrPool();
  XattrPool(const XattrPool&) = delete;
  XattrPool& operator=(const XattrPool&) = delete;

  // REQUIRES: fewer than 2^32 attributes and sets
  XattrSetId Add(const std::map<std::string, std::string>& xattrs);

  size_t size() const { return xattrs_.size(); }  // attributes; their ids are below it
  size_t set_count() const { return sets_.size(); }
  const Xattr& Get(XattrId id) const { return xattrs_[static_cast<size_t>(id)]; }
  // Ascending by name. Valid until the next Add.
  std::span<const XattrId> Set(XattrSetId id) const;

 private:
  using Ids = std::span<const XattrId>;

  struct SetRange {
    size_t first = 0;
    uint32_t size = 0;
  };
  struct XattrHash {
    using is_transparent = void;
    const XattrPool* pool;
    size_t operator()(const Xattr& xattr) const;
    size_t operator()(XattrId id) const { return (*this)(pool->Get(id)); }
  };
  struct XattrEqual {
    using is_transparent = void;
    const XattrPool* pool;
    bool operator()(XattrId a, XattrId b) const { return a == b; }
    bool operator()(XattrId a, const Xattr& b) const { return pool->Get(a) == b; }
  };
  struct SetHash {
    using is_transparent = void;
    const XattrPool* pool;
    size_t operator()(Ids ids) const;
    size_t operator()(XattrSetId id) const { return (*this)(pool->Set(id)); }
  };
  struct SetEqual {
    using is_transparent = void;
    const XattrPool* pool;
    bool operator()(XattrSetId a, XattrSetId b) const { return a == b; }
    bool operator()(XattrSetId a, Ids b) const;
  };

  XattrId AddOne(const Xattr& xattr);

  TextArena texts_;
  absl::flat_hash_set<absl::string_view> names_;
  std::deque<Xattr> xattrs_;
  absl::flat_hash_set<XattrId, XattrHash, XattrEqual> xattr_index_;
  std::vector<XattrId> members_;  // of all sets, one after another
  std::vector<SetRange> sets_;
  absl::flat_hash_set<XattrSetId, SetHash, SetEqual> set_index_;
};

}  // namespace sluice
