#include "node/image/notices.h"

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
  }
  return "";
}

void Notices::Add(NoticeKind kind, std::string_view path, std::string_view detail) {
  Notice& notice = notices_[static_cast<size_t>(kind)];
  if (notice.count++ > 0) return;
  notice.first = p2p::Quoted(path);
  if (!detail.empty()) absl::StrAppend(&notice.first, ": ", p2p::Quoted(detail));
}

void Notices::Merge(const Notices& later) {
  for (size_t i = 0; i < kNoticeKinds; ++i) {
    if (notices_[i].count == 0) notices_[i].first = later.notices_[i].first;
    notices_[i].count += later.notices_[i].count;
  }
}

}  // namespace sluice
