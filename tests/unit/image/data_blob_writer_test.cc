#include "node/image/data_blob_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "node/image/scratch_directory.h"
#include "p2p/recipe/sha256.h"
#include "tests/unit/image/list_reader.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Bytes that repeat themselves nowhere within a piece.
std::string Noise(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>((state >> 24) | 1);  // never zero
  }
  return bytes;
}

std::string Padded(std::string bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

class DataBlobWriterTest : public ::testing::Test {
 protected:
  DataBlobWriterTest() : scratch_(*ScratchDirectory::Make()) {}

  DataBlobWriter& writer() {
    if (!writer_) writer_.emplace(*DataBlobWriter::Open(scratch_.PathOf("blob"), 3, contents_));
    return *writer_;
  }

  absl::StatusOr<ContentId> Add(uint64_t size, ListReader::Runs runs) {
    LayerEntry entry;
    entry.size = size;
    ListReader reader({{entry, std::move(runs)}});
    EXPECT_TRUE(*reader.Next(entry));
    return writer().Add(reader, size);
  }
  ContentId AddFile(const std::string& bytes) { return *Add(bytes.size(), {{0, bytes}}); }

  std::vector<Extent> ExtentsOf(ContentId id) {
    const std::span<const Extent> extents = contents_.Get(id).extents;
    return {extents.begin(), extents.end()};
  }

  // What a reader of the file system gets: the rule by which contents and extents belong together.
  std::string ReadBack(ContentId id, const std::string& blob) {
    if (id.empty()) return "";
    const ContentTable::Contents contents = contents_.Get(id);
    EXPECT_EQ(contents.layer, 3u);
    std::string bytes;
    for (const Extent& extent : contents.extents) {
      const size_t length =
          std::min<uint64_t>(uint64_t{extent.pieces} * kPieceBytes, contents.size - bytes.size());
      bytes += extent.block == Extent::kHole ? std::string(length, '\0')
                                             : blob.substr(uint64_t{extent.block} * kBlockBytes, length);
    }
    return bytes;
  }

  ScratchDirectory scratch_;
  ContentTable contents_;
  std::optional<DataBlobWriter> writer_;
};

TEST_F(DataBlobWriterTest, ASmallBlobIsOneChunkOfTheNextPowerOfTwo) {
  const ContentId id = AddFile("hello");
  const std::optional<DataBlob> blob = *writer().Finish(std::nullopt);
  ASSERT_TRUE(blob);
  EXPECT_EQ(blob->recipe.size, 16u << 10);
  EXPECT_EQ(blob->recipe.chunk_size, 16u << 10);
  const std::string bytes = ReadFile(blob->path);
  EXPECT_EQ(bytes, Padded("hello", 16 << 10));
  EXPECT_EQ(blob->recipe.blob, p2p::Sha256::Of(bytes));
  EXPECT_EQ(ReadBack(id, bytes), "hello");
}

TEST_F(DataBlobWriterTest, PiecesBeginOnBlocksAndTheFilesAreInTheirOrder) {
  const std::string a = Noise(5000, 1);
  const std::string b = Noise(kPieceBytes + 1, 2);
  const ContentId first = AddFile(a);
  const ContentId second = AddFile(b);
  EXPECT_THAT(ExtentsOf(first), ElementsAre(Extent{0, 1}));
  EXPECT_THAT(ExtentsOf(second), ElementsAre(Extent{2, 2}));  // pieces of 16 blocks and of one, joined
  const std::optional<DataBlob> blob = *writer().Finish(std::nullopt);
  const std::string bytes = ReadFile(blob->path);
  EXPECT_EQ(bytes.substr(0, 19 * kBlockBytes), Padded(a, 2 * kBlockBytes) + Padded(b, 17 * kBlockBytes));
  EXPECT_EQ(ReadBack(first, bytes), a);
  EXPECT_EQ(ReadBack(second, bytes), b);
}

TEST_F(DataBlobWriterTest, EqualPiecesAreStoredOnce) {
  const std::string piece = Noise(kPieceBytes, 1);
  const std::string other = Noise(kPieceBytes, 2);
  const ContentId first = AddFile(piece + other + "end");
  const ContentId again = AddFile(piece + other + "end");
  const ContentId mixed = AddFile(other + piece);
  const ContentId tail = AddFile("end");
  const ContentId padded = AddFile(std::string("end") + '\0');
  EXPECT_EQ(ExtentsOf(again), ExtentsOf(first));
  EXPECT_THAT(ExtentsOf(mixed), ElementsAre(Extent{16, 1}, Extent{0, 1}));
  EXPECT_THAT(ExtentsOf(tail), ElementsAre(Extent{32, 1}));
  EXPECT_THAT(ExtentsOf(padded), ElementsAre(Extent{32, 1}));
  EXPECT_EQ(writer().size(), 33u * kBlockBytes);
}

TEST_F(DataBlobWriterTest, ALongerPieceIsNotOneThatItBeginsWith) {
  const std::string block = Noise(kBlockBytes, 1);
  const ContentId one = AddFile(block);
  const ContentId two = AddFile(block + std::string(kBlockBytes, '\0'));
  EXPECT_THAT(ExtentsOf(one), ElementsAre(Extent{0, 1}));
  EXPECT_THAT(ExtentsOf(two), ElementsAre(Extent{1, 1}));
}

TEST_F(DataBlobWriterTest, ZerosAreHolesWhetherTheyAreWrittenOrLeftOut) {
  const std::string piece = Noise(kPieceBytes, 1);
  const std::string zeros(kPieceBytes, '\0');
  const ContentId written = AddFile(zeros + piece + zeros + zeros);
  EXPECT_THAT(ExtentsOf(written),
              ElementsAre(Extent{Extent::kHole, 1}, Extent{0, 1}, Extent{Extent::kHole, 2}));
  const absl::StatusOr<ContentId> sparse = Add(4 * kPieceBytes, {{kPieceBytes, piece}});
  EXPECT_EQ(ExtentsOf(*sparse), ExtentsOf(written));
  const absl::StatusOr<ContentId> huge = Add(uint64_t{1} << 40, {{(uint64_t{1} << 40) - 3, "end"}});
  ASSERT_TRUE(huge.ok());
  EXPECT_THAT(ExtentsOf(*huge), ElementsAre(Extent{Extent::kHole, (1u << 24) - 1}, Extent{16, 1}));
}

TEST_F(DataBlobWriterTest, NoBytesMakeNoBlob) {
  EXPECT_TRUE(AddFile("").empty());
  const ContentId zeros = AddFile(std::string(100, '\0'));
  EXPECT_THAT(ExtentsOf(zeros), ElementsAre(Extent{Extent::kHole, 1}));
  EXPECT_EQ(*writer().Finish(std::nullopt), std::nullopt);
}

TEST_F(DataBlobWriterTest, RunsMayBeOfAnySize) {
  const std::string whole = Noise(3 * kPieceBytes + 77, 9);
  ListReader::Runs runs;
  for (size_t at = 0, step = 1; at < whole.size(); at += step, step = step * 7 % 9973 + 1) {
    step = std::min(step, whole.size() - at);
    runs.push_back({at, whole.substr(at, step)});
  }
  const ContentId pieces = *Add(whole.size(), runs);
  const ContentId at_once = AddFile(whole);
  EXPECT_EQ(ExtentsOf(pieces), ExtentsOf(at_once));
  const std::optional<DataBlob> blob = *writer().Finish(std::nullopt);
  EXPECT_EQ(ReadBack(pieces, ReadFile(blob->path)), whole);
}

TEST_F(DataBlobWriterTest, AReaderThatGivesTooMuchOrGoesBackIsRefused) {
  EXPECT_EQ(Add(4, {{0, "hello"}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Add(4, {{5, ""}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Add(4, {{UINT64_MAX, "x"}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Add(kPieceBytes * 2, {{kPieceBytes, "x"}, {0, "y"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PadDataBlobTest, EndsOnAChunk) {
  struct Case {
    uint64_t bytes;
    std::optional<uint32_t> chunk_size;
    uint64_t size;
    uint32_t chunk;
  };
  for (const Case& c : std::vector<Case>{
           {4096, {}, 16 << 10, 16 << 10},
           {16 << 10, {}, 16 << 10, 16 << 10},
           {(16 << 10) + 4096, {}, 32 << 10, 32 << 10},
           {256 << 10, {}, 256 << 10, 256 << 10},
           {(256 << 10) + 4096, {}, 512 << 10, 256 << 10},
           {(uint64_t{16} << 30) + 4096, {}, (uint64_t{16} << 30) + (512 << 10), 512 << 10},
           {4096, 1 << 20, 16 << 10, 16 << 10},
           {3 << 20, 2 << 20, 4 << 20, 2 << 20},
           {(1 << 20) - 4096, 2 << 20, 1 << 20, 1 << 20},
       }) {
    const PaddedSize padded = PadDataBlob(c.bytes, c.chunk_size);
    EXPECT_EQ(padded.size, c.size) << c.bytes;
    EXPECT_EQ(padded.chunk_size, c.chunk) << c.bytes;
  }
}

}  // namespace
}  // namespace sluice
