#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "node/image/layer_reader.h"
#include "node/image/notices.h"

namespace sluice {

inline constexpr size_t kSymlinkBytesMax = 4095;    // Linux: PATH_MAX less the zero byte
inline constexpr uint32_t kDeviceMajorMax = 0xfff;  // Linux
inline constexpr uint32_t kDeviceMinorMax = 0xfffff;

// What no file system on Linux, or no EROFS image, can hold. Errors: InvalidArgument.
absl::Status CheckName(std::string_view name);                   // one component of a path
absl::Status CheckAttributes(const FileAttributes& attributes);  // those besides extended ones
absl::Status CheckDevice(const LayerEntry& entry);
absl::Status CheckSymlinkTarget(std::string_view target);
absl::Status CheckXattr(std::string_view name, std::string_view value);

// Why an extended attribute is left out of an image; none if it is kept.
std::optional<NoticeKind> WhyLeftOut(EntryKind kind, std::string_view name);

}  // namespace sluice
