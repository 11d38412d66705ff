#include "node/image/layer_stream.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zstd.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "node/image/layer_limits.h"
#include "tests/unit/image/gzip_bytes.h"
#include "tests/unit/image/read_layer.h"
#include "tests/unit/image/tar_bytes.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kNoBound = std::numeric_limits<uint64_t>::max();

std::string Zstd(const std::string& bytes, int window_log = 0) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  if (window_log != 0) {
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  }
  // As a stream, so that the frame names its window and not the size.
  std::string out(ZSTD_compressBound(bytes.size()) + 100, '\0');
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
  ZSTD_compressStream2(context, &output, &input, ZSTD_e_flush);
  EXPECT_EQ(ZSTD_compressStream2(context, &output, &input, ZSTD_e_end), 0u);
  out.resize(output.pos);
  ZSTD_freeCCtx(context);
  return out;
}

std::string Skippable(const std::string& bytes, char variant = 0) {
  std::string frame = std::string("\x50\x2a\x4d\x18", 4);
  frame[0] = static_cast<char>(frame[0] + variant);
  for (size_t i = 0; i < 4; ++i) frame += static_cast<char>(bytes.size() >> (8 * i) & 0xff);
  return frame + bytes;
}

std::string Noise(size_t size) {
  std::mt19937 random(7);
  std::string noise(size, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  return noise;
}

struct Unpacked {
  std::string bytes;
  LayerCompression compression;
  Digest digest;
  uint64_t trailing_bytes;
};

absl::StatusOr<Unpacked> Unpack(const std::string& layer, size_t at_once = 1 << 20,
                                uint64_t bytes_max = kNoBound, size_t buffer_bytes = 10000) {
  auto stream = LayerStream::Open(std::make_unique<MemoryStream>(layer, at_once), bytes_max);
  if (!stream.ok()) return stream.status();
  std::string bytes;
  std::vector<std::byte> buffer(buffer_bytes);
  while (true) {
    absl::StatusOr<size_t> n = (*stream)->Read(buffer);
    if (!n.ok()) {
      EXPECT_EQ((*stream)->Read(buffer).status(), n.status()) << "errors stay";
      EXPECT_EQ((*stream)->Finish().status(), n.status()) << "errors stay";
      return n.status();
    }
    if (*n == 0) break;
    bytes.append(reinterpret_cast<const char*>(buffer.data()), *n);
  }
  EXPECT_EQ((*stream)->bytes(), bytes.size());
  absl::StatusOr<Digest> digest = (*stream)->Finish();
  if (!digest.ok()) return digest.status();
  return Unpacked{bytes, (*stream)->compression(), *digest, (*stream)->trailing_bytes()};
}

void ExpectUnpacks(const std::string& layer, const std::string& bytes, LayerCompression compression) {
  for (const size_t at_once : {1, 100, 1 << 20}) {
    const auto unpacked = Unpack(layer, at_once);
    ASSERT_EQ(unpacked.status(), absl::OkStatus()) << at_once;
    EXPECT_TRUE(unpacked->bytes == bytes) << unpacked->bytes.size() << " bytes, wanted " << bytes.size();
    EXPECT_EQ(unpacked->compression, compression);
    EXPECT_EQ(unpacked->digest, p2p::Sha256::Of(bytes));
    EXPECT_EQ(unpacked->trailing_bytes, 0u);
  }
}

void ExpectRefused(const std::string& layer, const std::string& why) {
  for (const size_t at_once : {1, 1 << 20}) {
    const absl::Status status = Unpack(layer, at_once).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }
}

const std::string kArchive =
    tar::File("a", tar::Repeated(100000, 'a')) + tar::File("b", Noise(300000)) + tar::kEnd;

TEST(LayerStreamTest, TakesTheCompressionFromTheBytes) {
  ExpectUnpacks(kArchive, kArchive, LayerCompression::kNone);
  ExpectUnpacks(Gzip(kArchive), kArchive, LayerCompression::kGzip);
  ExpectUnpacks(Zstd(kArchive), kArchive, LayerCompression::kZstd);
  ExpectUnpacks("", "", LayerCompression::kNone);
  ExpectUnpacks(Gzip(""), "", LayerCompression::kGzip);
  ExpectUnpacks(Zstd(""), "", LayerCompression::kZstd);
  ExpectUnpacks(tar::kEnd, tar::kEnd, LayerCompression::kNone);
}

TEST(LayerStreamTest, TakesNoNameForACompression) {
  for (const char* const name : {"\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "\x50\x2a\x4d\x18", "BZh9",
                                 "\xfd"
                                 "7zXZ"}) {
    const std::string archive = tar::File(name, "x") + tar::kEnd;
    ExpectUnpacks(archive, archive, LayerCompression::kNone);
  }
}

TEST(LayerStreamTest, NamesCompressionsThatNoLayerMayHave) {
  ExpectRefused(std::string("\xfd"
                            "7zXZ\0rest",
                            10),
                "compressed by xz");
  ExpectRefused("BZh91AY", "compressed by bzip2");
  ExpectRefused("\x04\x22\x4d\x18rest", "compressed by lz4");
}

TEST(LayerStreamTest, ReadsAllMembersOfGzip) {
  ExpectUnpacks(Gzip("one") + Gzip("") + Gzip("two"), "onetwo", LayerCompression::kGzip);
  std::string members;
  for (size_t i = 0; i < kArchive.size(); i += 1000) members += Gzip(kArchive.substr(i, 1000));
  ExpectUnpacks(members, kArchive, LayerCompression::kGzip);
}

TEST(LayerStreamTest, LeavesOutWhatFollowsGzip) {
  ExpectUnpacks(Gzip("one") + std::string(5000, '\0'), "one", LayerCompression::kGzip);
  for (const std::string& trailer :
       {std::string("garbage"), std::string("\0\0g", 3), std::string("\x1f\x8c", 2)}) {
    const auto unpacked = Unpack(Gzip("one") + trailer);
    ASSERT_EQ(unpacked.status(), absl::OkStatus());
    EXPECT_EQ(unpacked->bytes, "one");
    EXPECT_EQ(unpacked->trailing_bytes, trailer.size());
  }
}

TEST(LayerStreamTest, ReadsAllFramesOfZstd) {
  ExpectUnpacks(Zstd("one") + Zstd("") + Zstd("two"), "onetwo", LayerCompression::kZstd);
  // Skippable ones first, as zstd:chunked and seekable files have them elsewhere.
  ExpectUnpacks(Skippable("nothing") + Zstd("one") + Skippable("", 15) + Zstd("two") +
                    Skippable(std::string(70000, 's'), 3),
                "onetwo", LayerCompression::kZstd);
  ExpectUnpacks(Skippable("nothing"), "", LayerCompression::kZstd);
}

TEST(LayerStreamTest, RefusesWhatFollowsZstd) {
  ExpectRefused(Zstd("one") + "garbage", "zstd stream can't be read");
  ExpectRefused(Zstd("one") + std::string(100, '\0'), "zstd stream can't be read");
}

TEST(LayerStreamTest, BoundsTheWindowOfZstd) {
  const std::string bytes = tar::Repeated(1000, 'x');
  ExpectUnpacks(Zstd(bytes, 27), bytes, LayerCompression::kZstd);
  const absl::Status status = Unpack(Zstd(bytes, 28)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("over 128 MiB"));
}

// Whatever the place where a compressed layer is cut off, it is an error; between two members or frames
// nothing says that more should follow.
TEST(LayerStreamTest, NeverTakesAPartForTheWhole) {
  for (const bool zstd : {false, true}) {
    const std::string first = zstd ? Zstd("the first") : Gzip("the first");
    const std::string layer = first + (zstd ? Skippable("abc") + Zstd(Noise(300)) : Gzip(Noise(300)));
    const size_t skippable_end = zstd ? first.size() + 11 : first.size();
    for (size_t size = 5; size < layer.size(); ++size) {
      const auto unpacked = Unpack(layer.substr(0, size), 1 + size % 50);
      if (size == first.size() || size == skippable_end) {
        ASSERT_EQ(unpacked.status(), absl::OkStatus());
        EXPECT_EQ(unpacked->bytes, "the first");
      } else {
        EXPECT_EQ(unpacked.status().code(), absl::StatusCode::kInvalidArgument) << size;
      }
    }
  }
}

// Both have checksums, and a layer is large: no flipped bit may pass.
TEST(LayerStreamTest, NeverTakesOtherBytes) {
  const std::string bytes = Noise(100) + tar::Repeated(200, 'r');
  for (const std::string& layer : {Gzip(bytes), Zstd(bytes)}) {
    for (size_t bit = 0; bit < layer.size() * 8; ++bit) {
      std::string other = layer;
      other[bit / 8] = static_cast<char>(other[bit / 8] ^ 1 << bit % 8);
      const auto unpacked = Unpack(other);
      // A header may name other things than contents.
      if (unpacked.ok() && unpacked->compression != LayerCompression::kNone) {
        EXPECT_TRUE(unpacked->bytes == bytes) << bit;
      }
    }
  }
}

TEST(LayerStreamTest, BoundsWhatALayerUnpacksTo) {
  const std::string bytes = tar::Repeated(100000, 'x');
  for (const std::string& layer : {bytes, Gzip(bytes), Zstd(bytes)}) {
    EXPECT_EQ(Unpack(layer, 1 << 20, 100000).status(), absl::OkStatus());
    const absl::Status status = Unpack(layer, 1 << 20, 99999).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than the 99999 bytes"));
  }
}

TEST(LayerLimitsTest, AllowsALayerSoManyTimesItsSize) {
  const LayerLimits limits{.ratio_max = 10, .free_bytes = 1000};
  EXPECT_EQ(limits.UnpackedBytesMax(0), 1000u);
  EXPECT_EQ(limits.UnpackedBytesMax(100), 1000u);
  EXPECT_EQ(limits.UnpackedBytesMax(101), 1010u);
  EXPECT_EQ(limits.UnpackedBytesMax(kNoBound / 10 + 1), kNoBound);
  const LayerLimits none{.ratio_max = 0, .free_bytes = 0};
  EXPECT_EQ(none.UnpackedBytesMax(7), 7u) << "a plain archive";
  EXPECT_EQ(LayerLimits{.ratio_max = 0}.UnpackedBytesMax(5), uint64_t{1} << 30);
}

TEST(LayerStreamTest, HashesWhatFollowsTheArchivesEnd) {
  const std::string layer = tar::File("a", "x") + tar::kEnd + tar::Repeated(9000, '\0') + "rest";
  auto stream = LayerStream::Open(std::make_unique<MemoryStream>(Gzip(layer)), kNoBound);
  ASSERT_EQ(stream.status(), absl::OkStatus());
  LayerUsage usage;
  TarReader reader(**stream, {}, usage);
  ASSERT_EQ(ReadAll(reader).status(), absl::OkStatus());
  const auto digest = (*stream)->Finish();
  ASSERT_EQ(digest.status(), absl::OkStatus());
  EXPECT_EQ(*digest, p2p::Sha256::Of(layer));
  EXPECT_EQ((*stream)->bytes(), layer.size());
}

TEST(LayerStreamTest, PassesErrorsOfTheLayer) {
  for (const std::string& layer : {Gzip(kArchive), Zstd(kArchive), kArchive}) {
    for (const size_t size : {size_t{3}, layer.size() / 2}) {
      auto stream = LayerStream::Open(
          std::make_unique<MemoryStream>(layer.substr(0, size), 999, absl::DataLossError("the disk is gone")),
          kNoBound);
      const absl::Status status = stream.ok() ? (*stream)->Finish().status() : stream.status();
      EXPECT_EQ(status, absl::DataLossError("the disk is gone"));
    }
  }
}

TEST(FileStreamTest, ReadsFromTheFirstByteWhateverThePosition) {
  char path[] = "/tmp/sluice-test-XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  unlink(path);
  ASSERT_EQ(write(fd, "some bytes", 10), 10);
  FileStream stream(fd);
  std::vector<std::byte> buffer(4);
  ASSERT_EQ(*ReadFully(stream, buffer), 4u);
  EXPECT_EQ(std::memcmp(buffer.data(), "some", 4), 0);
  ASSERT_EQ(*ReadFully(stream, buffer), 4u);
  ASSERT_EQ(*ReadFully(stream, buffer), 2u);
  EXPECT_EQ(*stream.Read(buffer), 0u);
  close(fd);
  EXPECT_EQ(stream.Read(buffer).status().code(), absl::ErrnoToStatus(EBADF, "").code());
}

}  // namespace
}  // namespace sluice
