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
  BlobRecord stored = record;
  stored.stored[stored.origins[0]] = {Digest(), 9000, SeekTablePlace{{8959, 41}, Digest()}};
  PresenceSegment segment(70);
  segment.present.Add(ChunkIndex(64));
  segment.present.Add(ChunkIndex(65));
  segment.verified.Add(ChunkIndex(64));
  return {EncodeBlobRecord(record), EncodeBlobRecord(stored), EncodeSegment(segment),
          RecordKey(BlobKey(Digest())), SegmentKey(BlobKey(Digest()), SegmentIndex(1))};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto record = DecodeBlobRecord(bytes); record.ok())
    Took(record_parser, bytes, EncodeBlobRecord(*record));
  if (const auto segment = DecodeSegment(bytes); segment.ok())
    Took(segment_parser, bytes, EncodeSegment(*segment));
  // Of an earlier record less is kept than it said.
  if (const auto record = DecodeEarlierBlobRecord(bytes); record.ok() && record->file) std::abort();
  if (const auto id = DecodeRecordKey(bytes); id.ok()) Took(blob_key_parser, bytes, RecordKey(*id));
  if (const auto name = DecodeSegmentKey(bytes); name.ok())
    Took(segment_key_parser, bytes, SegmentKey(name->id, name->segment));
  if (DecodeRecordKey(bytes).ok() != (KindOf(bytes) == KeyKind::kBlob && bytes.size() == 34)) std::abort();
  return 0;
}
