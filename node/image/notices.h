#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// What an image loses or changes on its way, and can do without.
enum class NoticeKind : uint8_t {
  kReservedName,    // an entry of the aufs era, ".wh..wh.plnk"
  kForeignXattr,    // an extended attribute in a namespace that Linux, or EROFS, has not
  kOverlayXattr,    // one that the overlay file system keeps for itself
  kMisplacedXattr,  // one that a file of this kind can't have: "user." of a symbolic link
  kForeignRecord,   // a pax record that container runtimes do not apply and other tools do
  kHostLabel,       // a file's SELinux label on the host that a directory was read on
  kTrailingBytes,   // bytes behind a layer's compressed stream
  kOtherPlatform,   // an image that is no index, and not for the platform asked for
  kOtherDiffId,     // a layer whose archive is another than the image's configuration names
};
inline constexpr size_t kNoticeKinds = 9;

// What to say of a kind, after its count: "entries under reserved names (.wh..wh.*) were left out".
std::string_view NoticeText(NoticeKind kind);

// How often each kind was met, and where first. One thread at a time.
class Notices {
 public:
  struct Notice {
    uint64_t count = 0;
    std::string first;  // as it may stand in a message; empty if the count is 0
  };

  // `detail`: what of it, such as the attribute's name; may be empty. Both are bytes from outside.
  void Add(NoticeKind kind, std::string_view path, std::string_view detail);

  // Of a layer or an image as a whole. `detail` is text of ours.
  void AddLayer(NoticeKind kind, std::string detail);

  // Adds what another has counted, later than this, in `layer` ("" for none), whose name is text of ours.
  void Merge(const Notices& later, std::string_view layer = {});

  // What there is to say, a line a kind.
  std::vector<std::string> Lines() const;

  const Notice& Of(NoticeKind kind) const { return notices_[static_cast<size_t>(kind)]; }

 private:
  std::array<Notice, kNoticeKinds> notices_;
};

}  // namespace sluice
