#include "p2p/registry/seek_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sluice::p2p {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kChunk = 16 << 10;
const ChunkGeometry kGeometry(2 * kChunk + 100, kChunk);
const std::vector<uint32_t> kFrames{3000, 20, 57};
constexpr uint64_t kFramesBytes = 3077;

std::string Little(uint32_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

std::string Good() {
  return SeekTable::Serialize(kGeometry, kFrames);
}

// The table with the number at `offset` replaced.
std::string With(size_t offset, uint32_t value) {
  std::string table = Good();
  table.replace(offset, 4, Little(value));
  return table;
}

void ExpectLie(const std::string& table, const std::string& part) {
  const absl::StatusOr<SeekTable> parsed = SeekTable::Parse(table, kGeometry, kFramesBytes);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << part;
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part));
}

// As contrib/seekable_format of zstd describes it, byte by byte.
TEST(SeekTable, IsWrittenAsTheFormatSays) {
  const std::string expected = Little(0x184D2A5E) + Little(3 * 8 + 9) +                       //
                               Little(3000) + Little(kChunk) + Little(20) + Little(kChunk) +  //
                               Little(57) + Little(100) + Little(3) + std::string(1, '\0') +
                               Little(0x8F92EAB1);
  EXPECT_EQ(Good(), expected);
  EXPECT_EQ(Good().size(), SeekTable::BytesFor(3));
}

TEST(SeekTable, SaysWhereFramesLie) {
  const absl::StatusOr<SeekTable> table = SeekTable::Parse(Good(), kGeometry, kFramesBytes);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->RangeOf(ChunkIndex(0)), (ByteRange{0, 3000}));
  EXPECT_EQ(table->RangeOf(ChunkIndex(1)), (ByteRange{3000, 20}));
  EXPECT_EQ(table->RangeOf(ChunkIndex(2)), (ByteRange{3020, 57}));
  EXPECT_EQ(table->RangeOf(ChunkSpan{ChunkIndex(1), 2}), (ByteRange{3000, 77}));
  EXPECT_EQ(table->RangeOf(kGeometry.All()), (ByteRange{0, kFramesBytes}));
}

TEST(SeekTable, PassesOverChecksumsAndUnusedBits) {
  std::string table = Little(0x184D2A5E) + Little(3 * 12 + 9);
  for (uint32_t i = 0; i < 3; ++i) {
    table += Little(kFrames[i]) + Little(i < 2 ? kChunk : 100) + Little(0xABCDEF01);
  }
  table += Little(3) + std::string(1, '\x83') + Little(0x8F92EAB1);
  EXPECT_EQ(table.size(), SeekTable::BytesMaxFor(3));
  const absl::StatusOr<SeekTable> parsed = SeekTable::Parse(table, kGeometry, kFramesBytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->RangeOf(ChunkIndex(2)), (ByteRange{3020, 57}));
}

TEST(SeekTable, RefusesEachWayToLie) {
  ExpectLie("", "fewer than any");
  ExpectLie(Good().substr(1), "does not begin");
  ExpectLie(With(0, 0x184D2A5F), "does not begin");
  ExpectLie(With(Good().size() - 4, 0xFD2FB528), "does not end");
  ExpectLie(With(4, 34), "says that it has 34 bytes");
  ExpectLie(With(4, 0xFFFFFFFF), "says that it has");
  ExpectLie(With(8 + 24, 2), "2 frames; the blob has 3 chunks");
  ExpectLie(With(8 + 24, 0xFFFFFFFF), "the blob has 3 chunks");
  ExpectLie(With(12, kChunk - 1), "frame 0 has 16383 plain bytes");
  ExpectLie(With(12, kChunk + 1), "frame 0 has 16385 plain bytes");
  ExpectLie(With(28, 0), "frame 2 has 0 plain bytes");
  ExpectLie(With(8, 20), "have 97 bytes; stored are 3077");
  ExpectLie(With(8, 0), "frame 0 has no bytes");
  ExpectLie(With(8, 0xFFFFFFFF), "at most");
  ExpectLie(With(16, 58), "past the last frame's end");
  ExpectLie(With(24, 56), "have 3076 bytes");
}

TEST(SeekTable, RefusesFlagsThatDontFit) {
  std::string with_checksums = Good();
  with_checksums[with_checksums.size() - 5] = '\x80';
  ExpectLie(with_checksums, "with checksums has");
  for (const char reserved : {'\x04', '\x40'}) {
    std::string table = Good();
    table[table.size() - 5] = reserved;
    ExpectLie(table, "reserves");
  }
}

TEST(SeekTable, RefusesBytesBetweenEntriesAndFooter) {
  std::string table = Good();
  table.insert(8 + 24, std::string(8, '\0'));
  table.replace(4, 4, Little(3 * 8 + 9 + 8));
  ExpectLie(table, "without checksums has 41");
}

TEST(SeekTable, AFrameHasNoMoreBytesThanItsChunkNeeds) {
  const ChunkGeometry one(kChunk, kChunk);
  const uint64_t max = SeekTable::FrameBytesMax(kChunk);
  EXPECT_TRUE(SeekTable::OfOneFrame(one, max).ok());
  EXPECT_FALSE(SeekTable::OfOneFrame(one, max + 1).ok());
  EXPECT_FALSE(SeekTable::OfOneFrame(one, 0).ok());
  EXPECT_EQ(SeekTable::OfOneFrame(one, 77)->RangeOf(ChunkIndex(0)), (ByteRange{0, 77}));
}

}  // namespace
}  // namespace sluice::p2p
