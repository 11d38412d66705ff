#include "index/index_codec.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

using namespace sluice::index;

// Decoding is strict: what is taken is exactly what the encoder makes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto record = DecodeBlobRecord(bytes); record.ok() && EncodeBlobRecord(*record) != bytes)
    std::abort();
  if (const auto segment = DecodeSegment(bytes); segment.ok() && EncodeSegment(*segment) != bytes)
    std::abort();
  // Of an earlier record less is kept than it said.
  if (const auto record = DecodeEarlierBlobRecord(bytes); record.ok() && record->file) std::abort();
  if (const auto id = DecodeBlobKey(bytes); id.ok() && BlobKey(*id) != bytes) std::abort();
  if (const auto name = DecodeSegmentKey(bytes); name.ok() && SegmentKey(name->id, name->segment) != bytes) {
    std::abort();
  }
  if (DecodeBlobKey(bytes).ok() != (KindOf(bytes) == KeyKind::kBlob && bytes.size() == 34)) std::abort();
  return 0;
}
