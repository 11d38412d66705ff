#pragma once

#include <sys/fanotify.h>

#include <cstdint>

// What Debian 12's headers do not know yet of the kernel's interface (include/uapi/linux/fanotify.h, 6.14).
#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif
#ifndef FAN_EVENT_INFO_TYPE_RANGE
#define FAN_EVENT_INFO_TYPE_RANGE 6
#endif
#ifndef FAN_DENY_ERRNO
#define FAN_DENY_ERRNO(error) (FAN_DENY | (static_cast<uint32_t>(error) & 0xff) << 24)
#endif

namespace sluice::keeper {

struct RangeRecord {
  fanotify_event_info_header header;
  uint32_t padding;
  uint64_t offset;
  uint64_t count;
};

}  // namespace sluice::keeper
