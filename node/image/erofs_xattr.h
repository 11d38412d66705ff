#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "node/image/tree_nodes.h"
#include "node/image/xattr_pool.h"

namespace sluice {

// An extended attribute's name as EROFS keeps it: the prefix by number, the rest as bytes.
// Source: Linux fs/erofs/erofs_fs.h, EROFS_XATTR_INDEX_*.
struct ErofsXattrName {
  uint8_t prefix = 0;
  std::string_view rest;  // empty for ACLs, whose whole name is the prefix
};

inline constexpr size_t kXattrNameBytesMax = 255;      // Linux, in full
inline constexpr size_t kXattrValueBytesMax = 65'535;  // EROFS has 16 bits for it; Linux allows one more
// Of all attributes of a file, as ErofsXattrBytes counts them: EROFS counts them by fours in 16 bits.
inline constexpr size_t kXattrSetBytesMax = (65'535 - 1) * 4;
inline constexpr size_t kSharedXattrsMax = 255;  // of a file; EROFS has 8 bits for it

// None if EROFS has no place for such a name: it has user.*, trusted.*, security.*, and the POSIX ACLs.
std::optional<ErofsXattrName> SplitXattrName(std::string_view name);

// What an attribute takes in an image.
size_t ErofsXattrBytes(const ErofsXattrName& name, size_t value_bytes);

// The extended attributes of an image as EROFS lays them out: those that several files have lie in an area of
// their own, once, and the files refer to them; the others follow their file's inode.
class ErofsXattrs {
 public:
  // REQUIRES: each attribute has a place in EROFS, and no set is over kXattrSetBytesMax; `pool` outlives this
  explicit ErofsXattrs(const XattrPool& pool);

  // First every file is counted, then Share decides.
  void CountFile(XattrSetId set) { ++files_of_set_[static_cast<size_t>(set)]; }
  void Share();

  // What follows an inode: a multiple of 4 bytes, none for no attributes.
  uint32_t BodyBytes(XattrSetId set) const { return body_bytes_[static_cast<size_t>(set)]; }
  void AppendBody(XattrSetId set, std::vector<char>& out) const;
  // i_xattr_icount.
  static uint16_t CountOf(uint32_t body_bytes);

  uint64_t shared_bytes() const { return shared_bytes_; }
  // In the order of the area.
  const std::vector<XattrId>& shared() const { return shared_; }
  void AppendEntry(XattrId id, std::vector<char>& out) const;

 private:
  static constexpr uint32_t kNotShared = 0xffffffff;

  uint32_t ComputeBodyBytes(XattrSetId set) const;
  // Calls with each attribute of a set, and with its number in the shared area or kNotShared.
  template <typename Visit>
  void ForEach(XattrSetId set, const Visit& visit) const;

  const XattrPool& pool_;
  std::vector<uint32_t> files_of_set_;  // by XattrSetId
  std::vector<uint32_t> body_bytes_;    // by XattrSetId
  std::vector<uint32_t> shared_at_;     // by XattrId, in units of 4 bytes
  std::vector<XattrId> shared_;
  uint64_t shared_bytes_ = 0;
};

}  // namespace sluice
