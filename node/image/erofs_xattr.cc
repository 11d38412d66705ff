#include "node/image/erofs_xattr.h"

#include "node/image/erofs_format.h"

namespace sluice {
namespace {

struct Prefix {
  std::string_view text;
  uint8_t number;
  bool whole;  // nothing follows it
};

constexpr Prefix kPrefixes[] = {
    {"user.", 1, false},
    {"system.posix_acl_access", 2, true},
    {"system.posix_acl_default", 3, true},
    {"trusted.", 4, false},
    {"security.", 6, false},
};

}  // namespace

std::optional<ErofsXattrName> SplitXattrName(std::string_view name) {
  for (const Prefix& prefix : kPrefixes) {
    if (!name.starts_with(prefix.text)) continue;
    const std::string_view rest = name.substr(prefix.text.size());
    if (rest.empty() == prefix.whole) return ErofsXattrName{prefix.number, rest};
  }
  return std::nullopt;
}

size_t ErofsXattrBytes(const ErofsXattrName& name, size_t value_bytes) {
  return AlignUp(sizeof(erofs::XattrEntry) + name.rest.size() + value_bytes, erofs::kXattrAlignment);
}

}  // namespace sluice
