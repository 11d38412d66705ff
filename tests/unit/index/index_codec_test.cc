#include "index/index_codec.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice::index {
namespace {

Digest DigestOf(uint8_t fill) {
  std::array<uint8_t, Digest::kBytes> bytes{};
  bytes.fill(fill);
  return Digest(bytes);
}

BlobRecord FullRecord() {
  BlobRecord record;
  record.size = 1'234'567'890'123;
  record.chunk_size = 32 << 20;
  record.root = DigestOf(7);
  record.origins = {{"registry.example:5000", "team/app"}, {"mirror.example", "team/app"}};
  record.access = {OriginAccess::kPublic, OriginAccess::kCredentials};
  record.state = BlobState::kVerifiedWhole;
  record.pinned = true;
  record.last_access_ms = -5;
  return record;
}

PresenceSegment SegmentOf(uint32_t count) {
  PresenceSegment segment;
  segment.chunk_count = count;
  for (uint32_t i = 0; i < count; i += 3) segment.present[i / 64] |= uint64_t{1} << (i % 64);
  for (uint32_t i = 0; i < count; i += 6) segment.verified[i / 64] |= uint64_t{1} << (i % 64);
  return segment;
}

TEST(IndexCodec, BlobRecordRoundTrip) {
  const BlobRecord full = FullRecord();
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(full)).value(), full);
  BlobRecord bare;
  bare.size = 1;
  bare.chunk_size = kChunkSizeMin;
  bare.state = BlobState::kRefused;
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(bare)).value(), bare);
}

TEST(IndexCodec, EveryShorterOrLongerBlobRecordIsRejected) {
  const std::string value = EncodeBlobRecord(FullRecord());
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_FALSE(DecodeBlobRecord(value.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeBlobRecord(value + '\0').ok());
}

TEST(IndexCodec, MalformedBlobRecordsAreRejected) {
  const std::string value = EncodeBlobRecord(FullRecord());
  const auto with = [&](size_t at, char byte) {
    std::string changed = value;
    changed[at] = byte;
    return DecodeBlobRecord(changed).ok();
  };
  ASSERT_TRUE(with(0, value[0]));
  EXPECT_FALSE(with(0, 2)) << "version";
  EXPECT_FALSE(with(1, 15)) << "unknown flag";
  EXPECT_FALSE(with(2, 0)) << "state";
  EXPECT_FALSE(with(2, 4)) << "state";
  EXPECT_FALSE(with(11, 1)) << "chunk size that is no power of two";
  EXPECT_FALSE(with(10, 0x7f)) << "size beyond what chunks can cover";
  EXPECT_FALSE(with(23 + 32, 17)) << "more origins than allowed";
  BlobRecord empty = FullRecord();
  empty.size = 0;
  EXPECT_FALSE(DecodeBlobRecord(EncodeBlobRecord(empty)).ok());
  BlobRecord nameless = FullRecord();
  nameless.origins[1].repository.clear();
  EXPECT_FALSE(DecodeBlobRecord(EncodeBlobRecord(nameless)).ok());
  BlobRecord wordy = FullRecord();
  wordy.origins[0].registry.assign(kOriginNameBytesMax + 1, 'x');
  EXPECT_FALSE(DecodeBlobRecord(EncodeBlobRecord(wordy)).ok());
}

TEST(IndexCodec, RecordsOfBeforeAccessWasKeptSayThatItIsUnknown) {
  BlobRecord record = FullRecord();
  record.origins.resize(1);
  record.access = {OriginAccess::kCredentials};
  std::string value = EncodeBlobRecord(record);
  value[1] = static_cast<char>(value[1] & ~4);
  value.pop_back();
  record.access = {OriginAccess::kUnknown};
  const absl::StatusOr<BlobRecord> decoded = DecodeBlobRecord(value);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(*decoded, record);
  value = EncodeBlobRecord(record);
  value.back() = 4;
  EXPECT_FALSE(DecodeBlobRecord(value).ok()) << "no such access";
}

TEST(IndexCodec, SegmentRoundTrip) {
  for (const uint32_t count : {1u, 7u, 8u, 9u, 63u, 64u, 65u, 4095u, 4096u}) {
    const PresenceSegment segment = SegmentOf(count);
    const std::string value = EncodeSegment(segment);
    EXPECT_EQ(DecodeSegment(value).value(), segment) << count;
    EXPECT_EQ(value.size(), 3 + 2 * ((count + 7) / 8));
    EXPECT_FALSE(DecodeSegment(value + '\0').ok());
    for (size_t size = 0; size < value.size(); ++size)
      EXPECT_FALSE(DecodeSegment(value.substr(0, size)).ok());
  }
}

TEST(IndexCodec, MalformedSegmentsAreRejected) {
  PresenceSegment past_end = SegmentOf(9);
  past_end.present[0] |= uint64_t{1} << 9;
  EXPECT_FALSE(DecodeSegment(EncodeSegment(past_end)).ok());
  PresenceSegment unproven = SegmentOf(9);
  unproven.verified[0] |= uint64_t{1} << 1;
  EXPECT_FALSE(DecodeSegment(EncodeSegment(unproven)).ok());
  PresenceSegment none = SegmentOf(9);
  none.chunk_count = 0;
  EXPECT_FALSE(DecodeSegment(EncodeSegment(none)).ok());
  std::string other_version = EncodeSegment(SegmentOf(9));
  other_version[0] = 9;
  EXPECT_FALSE(DecodeSegment(other_version).ok());
}

TEST(IndexCodec, KeysRoundTripAndSortByBlobThenPosition) {
  EXPECT_EQ(DecodeBlobKey(BlobKey(DigestOf(3))).value(), DigestOf(3));
  const SegmentName name = DecodeSegmentKey(SegmentKey(DigestOf(3), SegmentIndex(15))).value();
  EXPECT_EQ(name.digest, DigestOf(3));
  EXPECT_EQ(name.segment, SegmentIndex(15));
  EXPECT_LT(SegmentKey(DigestOf(3), SegmentIndex(2)), SegmentKey(DigestOf(3), SegmentIndex(10)));
  EXPECT_LT(SegmentKey(DigestOf(3), SegmentIndex(10)), SegmentKey(DigestOf(4), SegmentIndex(0)));
  const std::set<std::string> keys = {BlobKey(DigestOf(3)), RecipeKey(DigestOf(3)),
                                      SegmentKey(DigestOf(3), SegmentIndex(0))};
  EXPECT_EQ(keys.size(), 3u);
}

TEST(IndexCodec, MalformedKeysAreRejected) {
  const std::string blob = BlobKey(DigestOf(3));
  EXPECT_FALSE(DecodeBlobKey("").ok());
  EXPECT_FALSE(DecodeBlobKey(blob.substr(0, blob.size() - 1)).ok());
  EXPECT_FALSE(DecodeBlobKey(blob + "x").ok());
  EXPECT_FALSE(DecodeBlobKey(RecipeKey(DigestOf(3))).ok());
  std::string other_version = blob;
  other_version[1] = 2;
  EXPECT_FALSE(DecodeBlobKey(other_version).ok());
  EXPECT_FALSE(DecodeSegmentKey(blob).ok());
  EXPECT_FALSE(DecodeSegmentKey(SegmentKey(DigestOf(3), SegmentIndex(16))).ok()) << "past the largest blob";
}

TEST(IndexCodec, RecipeRoundTrip) {
  EXPECT_EQ(DecodeRecipe(EncodeRecipe("d4:infode")).value(), "d4:infode");
  EXPECT_EQ(DecodeRecipe(EncodeRecipe("")).value(), "");
  EXPECT_FALSE(DecodeRecipe("").ok());
  EXPECT_FALSE(DecodeRecipe("\2x").ok());
}

TEST(IndexCodec, SegmentsCoverABlob) {
  const ChunkGeometry geometry(uint64_t{5000} * kChunkSizeMin, kChunkSizeMin);
  EXPECT_EQ(SegmentIndex::CountIn(geometry), 2u);
  EXPECT_EQ(SegmentIndex(0).ChunksIn(geometry), (ChunkSpan{ChunkIndex(0), 4096}));
  EXPECT_EQ(SegmentIndex(1).ChunksIn(geometry), (ChunkSpan{ChunkIndex(4096), 904}));
  EXPECT_EQ(SegmentIndex(2).ChunksIn(geometry).count, 0u);
  EXPECT_EQ(SegmentIndex::Of(ChunkIndex(4096)), SegmentIndex(1));
}

}  // namespace
}  // namespace sluice::index
