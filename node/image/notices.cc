#include "node/image/notices.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {

std::string_view NoticeText(NoticeKind kind) {
  switch (kind) {
    case NoticeKind::kReservedName:
      return "entries under reserved names (.wh..wh.*) were left out";
    case NoticeKind::kForeignXattr:
      return "extended attributes of namespaces that Linux or EROFS lacks were left out";
    case NoticeKind::kOverlayXattr:
      return "extended attributes of the overlay file system's own were left out";
    case NoticeKind::kMisplacedXattr:
      return "extended attributes that files of their kind can't have were left out";
    case NoticeKind::kForeignRecord:
      return "records of pax headers that no container runtime applies were left out";
    case NoticeKind::kHostLabel:
      return "SELinux labels of this host (security.selinux) were left out";
    case NoticeKind::kTrailingBytes:
      return "layers had bytes behind their gzip stream, which were left out";
    case NoticeKind::kOtherPlatform:
      return "images for another platform than was asked for";
    case NoticeKind::kOtherDiffId:
      return "layers are not those that the image's configuration names";
  }
  return "";
}

void Notices::Add(NoticeKind kind, std::string_view path, std::string_view detail) {
  Notice& notice = notices_[static_cast<size_t>(kind)];
  if (notice.count++ > 0) return;
  notice.first = p2p::Quoted(path);
  if (!detail.empty()) absl::StrAppend(&notice.first, ": ", p2p::Quoted(detail));
}

void Notices::AddLayer(NoticeKind kind, std::string detail) {
  Notice& notice = notices_[static_cast<size_t>(kind)];
  if (notice.count++ == 0) notice.first = std::move(detail);
}

void Notices::Merge(const Notices& later, std::string_view layer) {
  for (size_t i = 0; i < kNoticeKinds; ++i) {
    const Notice& added = later.notices_[i];
    if (notices_[i].count == 0 && added.count > 0) {
      notices_[i].first =
          layer.empty() ? added.first : absl::StrCat("layer ", p2p::Abs(layer), ": ", added.first);
    }
    notices_[i].count += added.count;
  }
}

std::vector<std::string> Notices::Lines() const {
  std::vector<std::string> lines;
  for (size_t i = 0; i < kNoticeKinds; ++i) {
    if (notices_[i].count == 0) continue;
    lines.push_back(absl::StrCat(notices_[i].count, " ", p2p::Abs(NoticeText(static_cast<NoticeKind>(i))),
                                 ", the first of them ", notices_[i].first));
  }
  return lines;
}

}  // namespace sluice
