#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "ondemand/keeper/replacement.h"
#include "ondemand/keeper/wire.h"
#include "taken.h"

namespace {

sluice::fuzz::Parser request_parser("requests");
sluice::fuzz::Parser reply_parser("replies");
sluice::fuzz::Parser replace_parser("questions for another version");
sluice::fuzz::Parser replace_reply_parser("their answers");

void Require(bool holds) {
  if (!holds) std::abort();
}

template <typename Pod>
std::string TextOf(const Pod& pod) {
  const std::span<const std::byte> bytes = sluice::keeper::BytesOf(pod);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

bool IsTerminated(std::span<const char> text) {
  return std::memchr(text.data(), 0, text.size()) != nullptr;
}

}  // namespace

std::vector<std::string> sluice::fuzz::GoodInputs() {
  return {TextOf(keeper::HelloRequest{}),   TextOf(keeper::PlainRequest{}),   TextOf(keeper::GuardRequest{}),
          TextOf(keeper::MountCall{}),      TextOf(keeper::UnmountRequest{}), TextOf(keeper::Reply{}),
          TextOf(keeper::ReplaceRequest{}), TextOf(keeper::ReplaceReply{})};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The parsers want memory that is aligned for uint64_t.
  std::vector<uint64_t> words(size / 8 + 1);
  std::memcpy(words.data(), data, size);
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(words.data()), size);
  if (const sluice::keeper::Header* request = sluice::keeper::ParseRequest(bytes)) {
    request_parser.Took();
    Require(request->magic == sluice::keeper::kWireMagic && request->version == sluice::keeper::kWireVersion);
    Require(!sluice::keeper::IsOfAnotherVersion(bytes));
    if (request->kind == sluice::keeper::RequestKind::kUnmount) {
      Require(IsTerminated(reinterpret_cast<const sluice::keeper::UnmountRequest*>(request)->mount_point));
    }
    // One byte less or more is another message.
    Require(!sluice::keeper::ParseRequest(bytes.first(size - 1)));
  }
  if (const sluice::keeper::Reply* reply = sluice::keeper::ParseReply(bytes)) {
    reply_parser.Took();
    Require(size == sizeof(sluice::keeper::Reply) && IsTerminated(reply->text));
  }
  if (const sluice::keeper::ReplaceRequest* request = sluice::keeper::ParseReplaceRequest(bytes)) {
    replace_parser.Took();
    Require(size == sizeof(*request) && !sluice::keeper::ParseRequest(bytes) &&
            !sluice::keeper::ParseReplaceReply(bytes));
  }
  if (const sluice::keeper::ReplaceReply* reply = sluice::keeper::ParseReplaceReply(bytes)) {
    replace_reply_parser.Took();
    Require(size == sizeof(*reply) && IsTerminated(reply->text));
  }
  return 0;
}
