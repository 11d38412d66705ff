#include "api/http/byte_range.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <variant>

#include "p2p/cluster/members.h"
#include "p2p/http/content_range.h"
#include "taken.h"

namespace {

sluice::fuzz::Parser asked_parser("ranges as asked");
sluice::fuzz::Parser answered_parser("ranges as answered");
sluice::fuzz::Parser address_parser("addresses");

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const uint64_t blob_size : {uint64_t{1}, uint64_t{1000}, UINT64_MAX}) {
    const sluice::api::RequestedRange range = sluice::api::ParseRange(bytes, blob_size);
    const auto* const part = std::get_if<sluice::ByteRange>(&range);
    if (!part) continue;
    asked_parser.Took();
    if (part->length == 0 || part->length > blob_size || part->offset > blob_size - part->length)
      std::abort();
  }
  if (const auto range = sluice::p2p::ParseContentRange(bytes)) {
    answered_parser.Took();
    const sluice::ByteRange part = range->range;
    if (part.length == 0 || part.offset > range->total - part.length) std::abort();
  }
  // An address is written as it is read.
  if (const auto address = sluice::p2p::HostPort::Parse(bytes); address.ok()) {
    address_parser.Took();
    const auto again = sluice::p2p::HostPort::Parse(address->ToString());
    if (!again.ok() || *again != *address) std::abort();
  }
  return 0;
}
