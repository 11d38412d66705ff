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
  record.file = FileIdentity{123456789012, 1'700'000'000'123'456'789, {1, 2, 3, 255}};
  record.state = BlobState::kVerifiedWhole;
  record.pinned = true;
  record.last_access_ms = -5;
  return record;
}

PresenceSegment SegmentOf(uint32_t count) {
  PresenceSegment segment(count);
  for (uint32_t i = 0; i < count; i += 3) segment.present.Add(ChunkIndex(i));
  for (uint32_t i = 0; i < count; i += 6) segment.verified.Add(ChunkIndex(i));
  return segment;
}

BlobKey IdOf(uint8_t fill) {
  return BlobKey(DigestOf(fill));
}

TEST(IndexCodec, BlobRecordRoundTrip) {
  const BlobRecord full = FullRecord();
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(full)).value(), full);
  BlobRecord bare;
  bare.size = 1;
  bare.chunk_size = kChunkSizeMin;
  bare.state = BlobState::kRefused;
  bare.is_hearsay = true;
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(bare)).value(), bare);
  BlobRecord imported = full;
  imported.is_imported = true;
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(imported)).value(), imported);
  imported.file = FileIdentity{7, 0, {}, 1'700'000'000'987'654'321};
  EXPECT_EQ(DecodeBlobRecord(EncodeBlobRecord(imported)).value(), imported);
  std::string no_file = EncodeBlobRecord(bare);
  no_file[2] = static_cast<char>(no_file[2] | 128);  // read in place, and no file
  EXPECT_FALSE(DecodeBlobRecord(no_file).ok());
}

// Two origins keep it compressed, in different ways.
BlobRecord StoredRecord() {
  BlobRecord record = FullRecord();
  record.origins.push_back({"third.example", "app"});
  record.access.push_back(OriginAccess::kUnknown);
  record.public_at_ms[record.origins[0]] = 1'700'000'000'000;
  record.stored[record.origins[1]] = {DigestOf(8), 9000, std::nullopt};
  record.stored[record.origins[2]] = {DigestOf(9), 9000, SeekTablePlace{{8959, 41}, DigestOf(10)}};
  return record;
}

TEST(IndexCodec, HowOriginsKeepABlobRoundTrips) {
  const BlobRecord record = StoredRecord();
  const std::string value = EncodeBlobRecord(record);
  EXPECT_EQ(DecodeBlobRecord(value).value(), record);
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_FALSE(DecodeBlobRecord(value.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeBlobRecord(value + '\0').ok());
}

TEST(IndexCodec, ARecordOfBeforeBlobsWereCompressedIsRead) {
  // As it was written then, byte by byte: one public origin, no root, no file.
  const std::string value = std::string("\x02\x00\x01", 3) +
                            std::string("\x10\x00\x00\x00\x00\x00\x00\x00", 8) +
                            std::string("\x00\x40\x00\x00", 4) + std::string(8, '\0') +
                            std::string(
                                "\x01\x01\x00"
                                "r\x01\x00"
                                "a\x02",
                                8);
  const absl::StatusOr<BlobRecord> record = DecodeBlobRecord(value);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->size, 16u);
  EXPECT_EQ(record->origins, (std::vector<BlobOrigin>{{"r", "a"}}));
  EXPECT_TRUE(record->stored.empty());
  EXPECT_EQ(EncodeBlobRecord(*record), value) << "and what is plain is still written so";
}

TEST(IndexCodec, MalformedStoredFormsAreRejected) {
  const std::string value = EncodeBlobRecord(StoredRecord());
  ASSERT_EQ(value[value.size() - 32 - 16 - 8 - 32 - 1], 2) << "the third origin's encoding";
  const auto with = [&](size_t from_end, char byte) {
    std::string changed = value;
    changed[changed.size() - from_end] = byte;
    return DecodeBlobRecord(changed).ok();
  };
  ASSERT_TRUE(with(1, 7));
  EXPECT_FALSE(with(32 + 16 + 8 + 32 + 1, 3)) << "encoding";
  EXPECT_FALSE(with(32 + 8, 42)) << "a seek table that is not the last thing";
  EXPECT_FALSE(with(32 + 16, 1)) << "nor is this one";
  EXPECT_FALSE(with(32 + 1, 1)) << "nor is one longer than what is stored";
  std::string plain = EncodeBlobRecord(FullRecord());
  plain[1] = static_cast<char>(plain[1] | 32);
  EXPECT_FALSE(DecodeBlobRecord(plain).ok()) << "it says that there are some";
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
  EXPECT_FALSE(with(0, 1)) << "the earlier version";
  EXPECT_FALSE(with(0, 3)) << "a later version";
  EXPECT_FALSE(with(1, 15)) << "a digest that is not there";
  EXPECT_FALSE(with(1, static_cast<char>(value[1] | 128))) << "unknown flag";
  EXPECT_FALSE(with(2, 0)) << "state";
  EXPECT_TRUE(with(2, 4));
  EXPECT_FALSE(with(2, 5)) << "state";
  EXPECT_FALSE(with(11, 1)) << "chunk size that is no power of two";
  EXPECT_FALSE(with(10, 0x7f)) << "size beyond what chunks can cover";
  EXPECT_FALSE(with(23 + 32 + 32, 17)) << "more origins than allowed";
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

// What version 1 wrote: the same fields, with no file, and in its last form with how each origin was got.
std::string EarlierRecord(const BlobRecord& record, bool with_access) {
  BlobRecord bare = record;
  bare.file.reset();
  std::string value = EncodeBlobRecord(bare);
  value[0] = 1;
  if (with_access) {
    value[1] = static_cast<char>(value[1] | 4);
  } else {
    value.pop_back();
  }
  return value;
}

TEST(IndexCodec, RecordsOfTheEarlierVersionKeepAllButTheirFile) {
  BlobRecord record = FullRecord();
  record.origins.resize(1);
  record.access = {OriginAccess::kCredentials};
  const std::string value = EarlierRecord(record, true);
  record.file.reset();
  record.state = BlobState::kActive;  // of the whole file nothing is believed
  EXPECT_EQ(DecodeEarlierBlobRecord(value).value(), record);
  record.access = {OriginAccess::kUnknown};
  EXPECT_EQ(DecodeEarlierBlobRecord(EarlierRecord(record, false)).value(), record);
  record.state = BlobState::kRefused;
  EXPECT_EQ(DecodeEarlierBlobRecord(EarlierRecord(record, true))->state, BlobState::kLost);
  record.state = BlobState::kLost;
  EXPECT_FALSE(DecodeEarlierBlobRecord(EarlierRecord(record, true)).ok()) << "it had no such state";
  EXPECT_FALSE(DecodeBlobRecord(value).ok());
  EXPECT_FALSE(DecodeEarlierBlobRecord(EncodeBlobRecord(FullRecord())).ok());
  for (size_t size = 0; size < value.size(); ++size) {
    EXPECT_FALSE(DecodeEarlierBlobRecord(value.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(DecodeEarlierBlobRecord(value + '\0').ok());
}

TEST(IndexCodec, AccessThatDoesNotExistIsRejected) {
  BlobRecord record = FullRecord();
  std::string value = EncodeBlobRecord(record);
  value.back() = 4;
  EXPECT_FALSE(DecodeBlobRecord(value).ok());
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
  const std::string value = EncodeSegment(SegmentOf(9));
  const auto with = [&](size_t at, int bit) {
    std::string changed = value;
    changed[at] = static_cast<char>(changed[at] | 1 << bit);
    return DecodeSegment(changed).ok();
  };
  ASSERT_EQ(value.size(), 3u + 2 + 2);
  EXPECT_TRUE(with(3, 1));
  EXPECT_FALSE(with(4, 1)) << "past the end";
  EXPECT_FALSE(with(6, 1)) << "past the end";
  EXPECT_FALSE(with(5, 1)) << "verified but not present";
  EXPECT_FALSE(DecodeSegment(EncodeSegment(PresenceSegment(0))).ok());
  for (const char version : {1, 9}) {
    std::string other = value;
    other[0] = version;
    EXPECT_FALSE(DecodeSegment(other).ok());
  }
}

TEST(IndexCodec, KeysRoundTripAndSortByBlobThenPosition) {
  EXPECT_EQ(DecodeRecordKey(RecordKey(IdOf(3))).value(), IdOf(3));
  const SegmentName name = DecodeSegmentKey(SegmentKey(IdOf(3), SegmentIndex(15))).value();
  EXPECT_EQ(name.id, IdOf(3));
  EXPECT_EQ(name.segment, SegmentIndex(15));
  EXPECT_LT(RecordKey(IdOf(9)), SegmentKey(IdOf(3), SegmentIndex(0))) << "blobs are read before their chunks";
  EXPECT_LT(SegmentKey(IdOf(3), SegmentIndex(2)), SegmentKey(IdOf(3), SegmentIndex(10)));
  EXPECT_LT(SegmentKey(IdOf(3), SegmentIndex(10)), SegmentKey(IdOf(4), SegmentIndex(0)));
}

TEST(IndexCodec, MalformedKeysAreRejected) {
  const std::string blob = RecordKey(IdOf(3));
  EXPECT_FALSE(DecodeRecordKey("").ok());
  EXPECT_FALSE(DecodeRecordKey(blob.substr(0, blob.size() - 1)).ok());
  EXPECT_FALSE(DecodeRecordKey(blob + "x").ok());
  EXPECT_FALSE(DecodeRecordKey(SegmentKey(IdOf(3), SegmentIndex(0))).ok());
  std::string earlier = blob;
  earlier[1] = 1;
  EXPECT_FALSE(DecodeRecordKey(earlier).ok());
  EXPECT_EQ(DecodeEarlierRecordKey(earlier).value(), IdOf(3));
  EXPECT_FALSE(DecodeSegmentKey(blob).ok());
  EXPECT_FALSE(DecodeSegmentKey(SegmentKey(IdOf(3), SegmentIndex(16))).ok()) << "past the largest blob";
}

TEST(IndexCodec, EveryKeyIsOfOneKind) {
  std::string blob = RecordKey(IdOf(3)), segment = SegmentKey(IdOf(3), SegmentIndex(0));
  EXPECT_EQ(KindOf(blob), KeyKind::kBlob);
  EXPECT_EQ(KindOf(segment), KeyKind::kSegment);
  blob[1] = segment[1] = 1;
  EXPECT_EQ(KindOf(blob), KeyKind::kEarlierBlob);
  EXPECT_EQ(KindOf(segment), KeyKind::kEarlierOther);
  EXPECT_EQ(KindOf("r\1x"), KeyKind::kEarlierOther);
  blob[1] = 3;
  for (const std::string& key :
       {blob, std::string(), std::string("b"), std::string("r\2x"), std::string("x")}) {
    EXPECT_EQ(KindOf(key), KeyKind::kUnknown) << key;
  }
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
