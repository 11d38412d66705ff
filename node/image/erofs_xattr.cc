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

template <typename T>
void AppendBytes(std::vector<char>& out, const T& value) {
  const char* const bytes = reinterpret_cast<const char*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}

size_t EntryBytes(const XattrPool::Xattr& xattr) {
  return ErofsXattrBytes(*SplitXattrName(xattr.name), xattr.value.size());
}

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

ErofsXattrs::ErofsXattrs(const XattrPool& pool)
    : pool_(pool),
      files_of_set_(pool.set_count()),
      body_bytes_(pool.set_count()),
      shared_at_(pool.size(), kNotShared) {}

void ErofsXattrs::Share() {
  std::vector<uint32_t> files(pool_.size());
  for (size_t set = 0; set < files_of_set_.size(); ++set) {
    for (XattrId id : pool_.Set(static_cast<XattrSetId>(set))) {
      files[static_cast<size_t>(id)] += files_of_set_[set];
    }
  }
  for (size_t i = 0; i < files.size(); ++i) {
    if (files[i] < 2) continue;
    const auto id = static_cast<XattrId>(i);
    shared_at_[i] = static_cast<uint32_t>(shared_bytes_ / erofs::kXattrAlignment);
    shared_.push_back(id);
    shared_bytes_ += EntryBytes(pool_.Get(id));
  }
  for (size_t set = 0; set < body_bytes_.size(); ++set) {
    body_bytes_[set] = ComputeBodyBytes(static_cast<XattrSetId>(set));
  }
}

template <typename Visit>
void ErofsXattrs::ForEach(XattrSetId set, const Visit& visit) const {
  size_t shared = 0;
  for (XattrId id : pool_.Set(set)) {
    uint32_t at = shared_at_[static_cast<size_t>(id)];
    if (at != kNotShared && ++shared > kSharedXattrsMax) at = kNotShared;
    visit(id, at);
  }
}

uint32_t ErofsXattrs::ComputeBodyBytes(XattrSetId set) const {
  if (pool_.Set(set).empty()) return 0;
  size_t bytes = sizeof(erofs::XattrHeader);
  ForEach(set, [&](XattrId id, uint32_t at) {
    bytes += at == kNotShared ? EntryBytes(pool_.Get(id)) : sizeof(at);
  });
  return static_cast<uint32_t>(bytes);
}

uint16_t ErofsXattrs::CountOf(uint32_t body_bytes) {
  if (body_bytes == 0) return 0;
  return static_cast<uint16_t>((body_bytes - sizeof(erofs::XattrHeader)) / erofs::kXattrAlignment + 1);
}

void ErofsXattrs::AppendBody(XattrSetId set, std::vector<char>& out) const {
  if (pool_.Set(set).empty()) return;
  erofs::XattrHeader header;
  ForEach(set, [&](XattrId, uint32_t at) { header.h_shared_count += at != kNotShared; });
  AppendBytes(out, header);
  ForEach(set, [&](XattrId, uint32_t at) {
    if (at != kNotShared) AppendBytes(out, at);
  });
  ForEach(set, [&](XattrId id, uint32_t at) {
    if (at == kNotShared) AppendEntry(id, out);
  });
}

void ErofsXattrs::AppendEntry(XattrId id, std::vector<char>& out) const {
  const XattrPool::Xattr& xattr = pool_.Get(id);
  const ErofsXattrName name = *SplitXattrName(xattr.name);
  const size_t end = out.size() + ErofsXattrBytes(name, xattr.value.size());
  AppendBytes(out, erofs::XattrEntry{.e_name_len = static_cast<uint8_t>(name.rest.size()),
                                     .e_name_index = name.prefix,
                                     .e_value_size = static_cast<uint16_t>(xattr.value.size())});
  out.insert(out.end(), name.rest.begin(), name.rest.end());
  out.insert(out.end(), xattr.value.begin(), xattr.value.end());
  out.resize(end);
}

}  // namespace sluice
