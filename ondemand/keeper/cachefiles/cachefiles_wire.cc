#include "ondemand/keeper/cachefiles/cachefiles_wire.h"

#include <climits>
#include <cstring>

namespace sluice::keeper {
namespace {

constexpr uint64_t kOffsetMax = INT64_MAX;
constexpr uint64_t kFileBlock = 4096;  // CACHEFILES_DIO_BLOCK_SIZE
constexpr int kErrorMax = 4095;        // MAX_ERRNO

template <typename T>
T Copy(std::span<const std::byte> bytes) {
  T pod;
  std::memcpy(&pod, bytes.data(), sizeof(pod));
  return pod;
}

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

using Body = decltype(CachefilesMessage::body);

// `data` is what follows the header.
int DescriptorOf(std::span<const std::byte> data) {
  if (data.size() < sizeof(cachefiles_open)) return -1;
  const uint32_t fd = Copy<cachefiles_open>(data).fd;
  return fd <= INT_MAX ? static_cast<int>(fd) : -1;
}

Body ParseOpen(std::span<const std::byte> data) {
  if (data.size() < sizeof(cachefiles_open)) return CachefilesMalformed{"an OPEN without all its fields"};
  const auto open = Copy<cachefiles_open>(data);
  const int fd = DescriptorOf(data);
  if (fd < 0) return CachefilesMalformed{"an OPEN whose descriptor is negative"};
  const auto keys = data.subspan(sizeof(cachefiles_open));
  if (uint64_t{open.volume_key_size} + open.cookie_key_size != keys.size()) {
    return CachefilesMalformed{"an OPEN whose keys are not as long as it says", fd};
  }
  if (open.volume_key_size == 0) return CachefilesMalformed{"an OPEN without a volume key", fd};
  if (open.cookie_key_size == 0) return CachefilesMalformed{"an OPEN without a cookie key", fd};
  const std::string_view volume = Text(keys.first(open.volume_key_size));
  if (volume.find('\0') != volume.size() - 1) {
    return CachefilesMalformed{"an OPEN whose volume key does not end in its only NUL", fd};
  }
  return CachefilesOpen{.volume_key = volume.substr(0, volume.size() - 1),
                        .cookie_key = Text(keys.subspan(open.volume_key_size)),
                        .fd = fd,
                        .flags = open.flags};
}

Body ParseRead(std::span<const std::byte> data) {
  if (data.size() != sizeof(cachefiles_read)) return CachefilesMalformed{"a READ of another size"};
  const auto read = Copy<cachefiles_read>(data);
  if (read.len == 0) return CachefilesMalformed{"a READ of nothing"};
  if (read.off > kOffsetMax || read.len > kOffsetMax - read.off) {
    return CachefilesMalformed{"a READ beyond the largest offset"};
  }
  return CachefilesRead{.offset = read.off, .length = read.len};
}

Body ParseBody(const CachefilesHeader& header, std::span<const std::byte> bytes) {
  const auto data = bytes.subspan(sizeof(cachefiles_msg));
  if (header.length != bytes.size()) {
    const int fd = header.opcode == CACHEFILES_OP_OPEN ? DescriptorOf(data) : -1;
    return CachefilesMalformed{"a message of another length than it says", fd};
  }
  switch (header.opcode) {
    case CACHEFILES_OP_OPEN:
      return ParseOpen(data);
    case CACHEFILES_OP_CLOSE:
      if (!data.empty()) return CachefilesMalformed{"a CLOSE with something behind it"};
      return CachefilesClose{};
    case CACHEFILES_OP_READ:
      return ParseRead(data);
    default:
      return CachefilesMalformed{"a request of an unknown kind"};
  }
}

// The kernel's isspace(): as the C locale's, and Latin-1's no-break space.
bool Blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || c == '\xa0';
}

// "verb argument" if the kernel reads the argument as it is.
Result<std::string> Command(const std::string& verb, std::string_view argument) {
  if (argument.empty()) return Error{EINVAL, verb + ": the argument is empty"};
  if (Blank(argument.front())) return Error{EINVAL, verb + ": the argument begins with a blank"};
  if (argument.find('\0') != std::string_view::npos || argument.find('\n') != std::string_view::npos) {
    return Error{EINVAL, verb + ": the argument has a NUL or a newline"};
  }
  std::string command = verb + " ";
  if (argument.size() > kCachefilesCommandBytesMax - command.size()) {
    return Error{EINVAL, verb + ": the argument is too long"};
  }
  return command.append(argument);
}

Result<std::string> EntryCommand(const std::string& verb, std::string_view name) {
  if (name.find('/') != std::string_view::npos || name == "." || name == ".." || name.size() > NAME_MAX) {
    return Error{EINVAL, verb + ": not the name of a directory's entry"};
  }
  return Command(verb, name);
}

}  // namespace

std::optional<CachefilesMessage> ParseCachefilesMessage(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(cachefiles_msg)) return std::nullopt;
  uint32_t fields[4];
  static_assert(sizeof(fields) == sizeof(cachefiles_msg));
  std::memcpy(fields, bytes.data(), sizeof(fields));
  const CachefilesHeader header{
      .id = fields[0], .opcode = fields[1], .length = fields[2], .object = fields[3]};
  return CachefilesMessage{.header = header, .body = ParseBody(header, bytes)};
}

Result<std::string> CopenCommand(uint32_t id, uint64_t size) {
  if (size > kOffsetMax - (kFileBlock - 1)) return Error{EINVAL, "copen: the size is too large"};
  return "copen " + std::to_string(id) + "," + std::to_string(size);
}

std::string CopenErrorCommand(uint32_t id, int error) {
  const int code = error >= 1 && error <= kErrorMax ? error : EIO;
  return "copen " + std::to_string(id) + ",-" + std::to_string(code);
}

Result<std::string> CullCommand(std::string_view name) {
  return EntryCommand("cull", name);
}

Result<std::string> InuseCommand(std::string_view name) {
  return EntryCommand("inuse", name);
}

Result<std::string> DirCommand(std::string_view path) {
  if (!path.starts_with('/')) return Error{EINVAL, "dir: the path is not absolute"};
  if (path.size() >= PATH_MAX) return Error{EINVAL, "dir: the path is too long"};
  return Command("dir", path);
}

Result<std::string> TagCommand(std::string_view tag) {
  return Command("tag", tag);
}

Result<std::array<std::string, 3>> LimitCommands(CachefilesResource resource,
                                                 const CachefilesLimits& limits) {
  if (limits.stop >= limits.cull || limits.cull >= limits.run || limits.run >= 100) {
    return Error{EINVAL, "limits must be stop < cull < run < 100"};
  }
  struct Limit {
    const char* verb;
    uint32_t from;
    uint32_t to;
  };
  const CachefilesLimits defaults;
  const Limit falling[] = {{"stop", defaults.stop, limits.stop},
                           {"cull", defaults.cull, limits.cull},
                           {"run", defaults.run, limits.run}};
  std::array<std::string, 3> commands;
  size_t count = 0;
  const auto add = [&](const Limit& limit) {
    std::string& command = commands[count++];
    command = static_cast<char>(resource);
    command += limit.verb;
    command += ' ';
    command += std::to_string(limit.to);
    command += '%';
  };
  // What rises makes room from above, then what falls from below: none meets its neighbour on the way.
  for (size_t i = std::size(falling); i-- > 0;) {
    if (falling[i].to >= falling[i].from) add(falling[i]);
  }
  for (const Limit& limit : falling) {
    if (limit.to < limit.from) add(limit);
  }
  return commands;
}

}  // namespace sluice::keeper
