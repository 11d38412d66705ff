#include "index/index_codec.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "taken.h"

using namespace sluice::index;

namespace {

sluice::fuzz::Parser record_parser("records");
sluice::fuzz::Parser segment_parser("segments");
sluice::fuzz::Parser recipe_parser("recipes");
sluice::fuzz::Parser blob_key_parser("keys of blobs");
sluice::fuzz::Parser segment_key_parser("keys of segments");

// Decoding is strict: what is taken is exactly what the encoder makes.
void Took(sluice::fuzz::Parser& parser, std::string_view bytes, const std::string& encoded) {
  parser.Took();
  if (encoded != bytes) std::abort();
}

}  // namespace

std::vector<std::string> sluice::fuzz::GoodInputs() {
  BlobRecord record;
  record.size = 1 << 20;
  record.chunk_size = kChunkSizeDefault;
  record.root = Digest();
  record.origins = {{"registry.example:5000", "team/app"}};
  record.access = {OriginAccess::kCredentials};
  record.pinned = true;
  PresenceSegment segment;
  segment.chunk_count = 70;
  segment.present[1] = 0b11;
  segment.verified[1] = 0b01;
  return {EncodeBlobRecord(record), EncodeSegment(segment), EncodeRecipe("a recipe"), BlobKey(Digest()),
          SegmentKey(Digest(), SegmentIndex(1))};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto record = DecodeBlobRecord(bytes); record.ok())
    Took(record_parser, bytes, EncodeBlobRecord(*record));
  if (const auto segment = DecodeSegment(bytes); segment.ok())
    Took(segment_parser, bytes, EncodeSegment(*segment));
  if (const auto recipe = DecodeRecipe(bytes); recipe.ok()) Took(recipe_parser, bytes, EncodeRecipe(*recipe));
  if (const auto digest = DecodeBlobKey(bytes); digest.ok()) Took(blob_key_parser, bytes, BlobKey(*digest));
  if (const auto name = DecodeSegmentKey(bytes); name.ok())
    Took(segment_key_parser, bytes, SegmentKey(name->digest, name->segment));
  return 0;
}
