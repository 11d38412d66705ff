#pragma once

#include <linux/cachefiles.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "ondemand/keeper/result.h"

// What the kernel and the holder of /dev/cachefiles say to each other in on-demand mode. Only bytes in and
// bytes out: no descriptor is touched, nothing is kept, any thread. Sources: include/uapi/linux/cachefiles.h,
// fs/cachefiles/ondemand.c and daemon.c (Linux 6.1 to 6.12),
// Documentation/filesystems/caching/cachefiles.rst.
namespace sluice::keeper {

// What one read(2) of the device needs: it returns one message whole, or EMSGSIZE again and again and nothing
// of those behind it. The longest is an OPEN with keys of 255 bytes, fscache's limit for either, and the
// volume's NUL.
inline constexpr size_t kCachefilesMessageBytesMax = CACHEFILES_MSG_MAX_SIZE;
static_assert(sizeof(cachefiles_msg) + sizeof(cachefiles_open) + 255 + 1 + 255 <= kCachefilesMessageBytesMax);
// What one write(2) to the device may have; it takes one command. The kernel's limit is a page less one byte.
inline constexpr size_t kCachefilesCommandBytesMax = 4095;

struct CachefilesHeader {
  uint32_t id = 0;      // names the request until it is answered
  uint32_t opcode = 0;  // CACHEFILES_OP_*, or one that is not known here
  uint32_t length = 0;  // of the whole message in bytes, as it says itself
  // The cache file's, the same in its OPEN, READs and CLOSE; another one when it is opened again. All ones if
  // its last descriptor was closed before the message was read.
  uint32_t object = 0;
};

// Answer it with CopenCommand or, having closed the descriptor, with CopenErrorCommand.
struct CachefilesOpen {
  std::string_view volume_key;  // "erofs,<domain or fsid>"; without the NUL that ends the kernel's
  std::string_view cookie_key;  // any bytes, at least one, not terminated; EROFS: the fsid or a device's name
  int fd = -1;                  // the reader's from now on, not close-on-exec; lost if nobody closes it
  uint32_t flags = 0;           // none are defined
};
// Close the object's descriptors; there is no answer.
struct CachefilesClose {};
// Fill the range, then CACHEFILES_IOC_READ_COMPLETE with the header's id on a descriptor of the object. There
// is no answer that says why not: completing a range that is still a hole gives the reader EIO.
struct CachefilesRead {
  uint64_t offset = 0;  // bytes; may lie behind the size that was answered
  uint64_t length = 0;  // bytes, at least 1; the end is not above INT64_MAX
};
// A message that is none of the above. To be answered all the same if it can be: an OPEN with
// CopenErrorCommand, a READ as above. A request of an unknown kind can't: Linux refuses copen for what is not
// an OPEN (since 6.1.101, 6.10).
struct CachefilesMalformed {
  const char* reason = "";  // for people, static
  int fd = -1;              // of an OPEN, as above; -1 if there is none
};

// Its keys point into the bytes that were parsed.
struct CachefilesMessage {
  CachefilesHeader header;
  std::variant<CachefilesOpen, CachefilesClose, CachefilesRead, CachefilesMalformed> body;
};

// What one read(2) of the device returned, of any alignment. nullopt if it is too short for a header; else
// the header is as it came, whatever the body is. A message is malformed if its length is not that of `bytes`
// and, to the byte, that of its parts; a volume key must end in its only NUL, as the kernel makes it from a
// string.
std::optional<CachefilesMessage> ParseCachefilesMessage(std::span<const std::byte> bytes);

// Commands: the text of one write(2) to the device. The kernel stops at a newline, refuses a NUL, skips
// blanks before an argument and takes numbers with a leading zero for octal; what it would read differently
// is refused: EINVAL.

// The last command of a new cache.
inline constexpr std::string_view kBindCommand = "bind ondemand";
// Has unanswered requests read again; since Linux 6.1.95 and 6.8. An OPEN whose descriptor is still open then
// fails (EEXIST from read(2)): close it before.
inline constexpr std::string_view kRestoreCommand = "restore";

// Answers an OPEN. `size` is the object's in bytes, any: the kernel rounds the file up to 4096. Errors:
// EINVAL if that would be above INT64_MAX.
Result<std::string> CopenCommand(uint32_t id, uint64_t size);
// Refuses an OPEN with an errno value; with EIO if `error` is none (1 to 4095), as an answer there must be.
std::string CopenErrorCommand(uint32_t id, int error);

// Discards a file of the cache, or a directory with all in it, if it is not in use (EBUSY); `name` is an
// entry of the writing thread's working directory. Errors: EINVAL if it is no name of one entry.
Result<std::string> CullCommand(std::string_view name);
// As CullCommand, but only asks.
Result<std::string> InuseCommand(std::string_view name);

// The directory that has the cache. Errors: EINVAL if it is not absolute or too long.
Result<std::string> DirCommand(std::string_view path);
// What fscache calls the cache. Errors: EINVAL if it is empty or too long.
Result<std::string> TagCommand(std::string_view tag);

// Percent that are free of the file system's blocks, or of its inodes: below `cull` the device polls
// writable, until it is `run`; below `stop` nothing is written (ENOBUFS).
struct CachefilesLimits {
  uint32_t run = 7;  // the kernel's defaults
  uint32_t cull = 5;
  uint32_t stop = 1;
};
enum class CachefilesResource : char { kBlocks = 'b', kFiles = 'f' };
// The commands that give a cache these limits if it has the default ones, in an order in which the kernel,
// that checks each against those in force, takes them. Errors: EINVAL unless stop < cull < run < 100.
Result<std::array<std::string, 3>> LimitCommands(CachefilesResource resource, const CachefilesLimits& limits);

}  // namespace sluice::keeper
