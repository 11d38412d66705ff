#include "ondemand/keeper/cachefiles/cachefiles_wire.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "taken.h"

namespace {

sluice::fuzz::Parser open_parser("messages that open");
sluice::fuzz::Parser read_parser("messages that read");
sluice::fuzz::Parser close_parser("messages that close");
sluice::fuzz::Parser command_parser("commands");

using sluice::keeper::CachefilesMessage;

void Require(bool holds) {
  if (!holds) std::abort();
}

bool Inside(std::string_view part, std::span<const std::byte> whole) {
  const auto* begin = reinterpret_cast<const char*>(whole.data());
  return part.data() >= begin && part.data() + part.size() <= begin + whole.size();
}

void CheckMessage(std::span<const std::byte> bytes) {
  const std::optional<CachefilesMessage> message = sluice::keeper::ParseCachefilesMessage(bytes);
  Require(message.has_value() == (bytes.size() >= sizeof(cachefiles_msg)));
  if (!message) return;
  if (const auto* bad = std::get_if<sluice::keeper::CachefilesMalformed>(&message->body)) {
    Require(bad->reason[0] != '\0' && bad->fd >= -1);
    Require(bad->fd < 0 || message->header.opcode == CACHEFILES_OP_OPEN);
    return;
  }
  Require(message->header.length == bytes.size());
  if (const auto* open = std::get_if<sluice::keeper::CachefilesOpen>(&message->body)) {
    open_parser.Took();
    Require(Inside(open->volume_key, bytes) && Inside(open->cookie_key, bytes) && open->fd >= 0);
    Require(open->volume_key.find('\0') == std::string_view::npos && !open->cookie_key.empty());
    Require(sizeof(cachefiles_msg) + sizeof(cachefiles_open) + open->volume_key.size() + 1 +
                open->cookie_key.size() ==
            bytes.size());
  } else if (const auto* read = std::get_if<sluice::keeper::CachefilesRead>(&message->body)) {
    read_parser.Took();
    Require(read->length > 0 && read->offset + read->length <= INT64_MAX);
  } else {
    close_parser.Took();
    Require(bytes.size() == sizeof(cachefiles_msg));
  }
}

// As the kernel's daemon.c takes a command apart: what it understands must be what was meant.
void CheckCommand(const sluice::keeper::Result<std::string>& made, std::string_view verb,
                  std::string_view argument) {
  if (!made.ok()) return;
  command_parser.Took();
  sluice::keeper::Result<std::string> copy = made;
  const std::string& command = copy.value();
  Require(command.size() <= sluice::keeper::kCachefilesCommandBytesMax);
  Require(command.find('\0') == std::string::npos && command.find('\n') == std::string::npos);
  constexpr std::string_view kBlanks = "\t\n\v\f\r \xa0";
  const size_t end = command.find_first_of(kBlanks);
  Require(end != std::string::npos && std::string_view(command).substr(0, end) == verb);
  const size_t begin = command.find_first_not_of(kBlanks, end);
  Require(begin != std::string::npos && std::string_view(command).substr(begin) == argument);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of just that size, so that reading past it is seen; and one that is not aligned.
  std::vector<uint8_t> bytes(data, data + size);
  CheckMessage(std::as_bytes(std::span(bytes)));
  bytes.insert(bytes.begin(), 0);
  CheckMessage(std::as_bytes(std::span(bytes).subspan(1)));
  // The parser lets most inputs go at the length: this one is right.
  if (size >= sizeof(cachefiles_msg)) {
    const auto length = static_cast<uint32_t>(size);
    std::memcpy(bytes.data() + 1 + offsetof(cachefiles_msg, len), &length, sizeof(length));
    CheckMessage(std::as_bytes(std::span(bytes).subspan(1)));
  }
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  CheckCommand(sluice::keeper::CullCommand(text), "cull", text);
  CheckCommand(sluice::keeper::InuseCommand(text), "inuse", text);
  CheckCommand(sluice::keeper::DirCommand(text), "dir", text);
  CheckCommand(sluice::keeper::TagCommand(text), "tag", text);
  return 0;
}
