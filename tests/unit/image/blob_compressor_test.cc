#include "node/image/blob_compressor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "node/image/scratch_directory.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class BlobCompressorTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kFrameBytes = 16 << 10;

  BlobCompressorTest() : scratch_(*ScratchDirectory::Make()) {
    for (int i = 0; i < 40'000; ++i) plain_ += std::to_string(i * 7) + "\n";
    std::ofstream(scratch_.PathOf("plain"), std::ios::binary) << plain_;
  }

  absl::StatusOr<CompressedFile> Compress(unsigned threads, const std::string& name, uint64_t size,
                                          std::string_view trailer = "") {
    return CompressFile(
        {scratch_.PathOf("plain"), size, scratch_.PathOf(name), kFrameBytes, 3, threads},
        [&](const std::vector<uint32_t>&) { return std::string(trailer); },
        [this](uint64_t done) {
          EXPECT_GT(done, done_);
          done_ = done;
        });
  }

  ScratchDirectory scratch_;
  std::string plain_;
  uint64_t done_ = 0;
};

TEST_F(BlobCompressorTest, EachFrameIsAPieceOfItsOwn) {
  const absl::StatusOr<CompressedFile> made = Compress(3, "out", plain_.size(), "behind");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(done_, plain_.size());
  const std::string bytes = ReadFile(made->path);
  EXPECT_EQ(made->size, bytes.size());
  EXPECT_EQ(made->digest, p2p::Sha256::Of(bytes));
  EXPECT_EQ(made->frame_sizes.size(), (plain_.size() + kFrameBytes - 1) / kFrameBytes);
  size_t at = 0;
  std::string whole;
  for (const uint32_t size : made->frame_sizes) {
    std::string piece(kFrameBytes, '\0');
    ASSERT_EQ(ZSTD_findFrameCompressedSize(bytes.data() + at, bytes.size() - at), size);
    const size_t n = ZSTD_decompress(piece.data(), piece.size(), bytes.data() + at, size);
    ASSERT_FALSE(ZSTD_isError(n));
    EXPECT_EQ(ZSTD_getFrameContentSize(bytes.data() + at, size), n);
    whole += piece.substr(0, n);
    at += size;
  }
  EXPECT_EQ(whole, plain_);
  EXPECT_EQ(bytes.substr(at), "behind");
}

TEST_F(BlobCompressorTest, TheBytesDoNotDependOnTheThreads) {
  const std::string one = ReadFile(Compress(1, "one", plain_.size())->path);
  done_ = 0;
  const std::string many = ReadFile(Compress(16, "many", plain_.size())->path);
  EXPECT_EQ(one, many);
}

TEST_F(BlobCompressorTest, AFileThatGotShorterIsNoticed) {
  EXPECT_EQ(Compress(2, "out", plain_.size() + 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST(CompressionTest, IsParsed) {
  EXPECT_EQ(Compression::Parse("none")->kind, Compression::Kind::kNone);
  EXPECT_EQ(Compression::Parse("zstd")->level, 3);
  EXPECT_EQ(Compression::Parse("zstd:19")->level, 19);
  for (const char* text : {"", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:3x", "zstd3", "ZSTD", "none:1"}) {
    const absl::Status status = Compression::Parse(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("expected none, zstd or zstd:LEVEL"));
  }
}

}  // namespace
}  // namespace sluice
