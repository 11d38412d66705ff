#include "node/image/layer_stream.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/image/gzip_stream.h"
#include "node/image/tar_header.h"
#include "node/image/zstd_stream.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

using ::std::string_view_literals::operator""sv;

constexpr size_t kDrainBytes = 256 << 10;

struct Magic {
  std::string_view bytes;
  std::string_view name;
};
// Compressions that some tools write, and no image may have (OCI image specification, layer.md).
constexpr Magic kForeign[] = {{"\xfd"
                               "7zXZ\0"sv,
                               "xz"},
                              {"BZh"sv, "bzip2"},
                              {"\x04\x22\x4d\x18"sv, "lz4"},
                              {"LZIP"sv, "lzip"},
                              {"\x1f\x9d"sv, "compress"},
                              {"PK\x03\x04"sv, "zip"}};

// The bytes that were read to see what a stream is, then the rest of it.
class Rejoined final : public ByteStream {
 public:
  Rejoined(std::vector<std::byte> head, std::unique_ptr<ByteStream> rest)
      : head_(std::move(head)), rest_(std::move(rest)) {}

  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override {
    if (given_ == head_.size()) return rest_->Read(buffer);
    const size_t n = std::min(buffer.size(), head_.size() - given_);
    std::copy_n(head_.begin() + static_cast<ptrdiff_t>(given_), n, buffer.begin());
    given_ += n;
    return n;
  }

 private:
  const std::vector<std::byte> head_;
  size_t given_ = 0;
  const std::unique_ptr<ByteStream> rest_;
};

bool IsZstd(std::string_view head) {
  if (head.starts_with("\x28\xb5\x2f\xfd"sv)) return true;
  // A skippable frame; the lowest four bits are free.
  return head.size() >= 4 && (static_cast<uint8_t>(head[0]) & 0xf0) == 0x50 &&
         head.substr(1).starts_with("\x2a\x4d\x18"sv);
}

absl::StatusOr<LayerCompression> Detect(std::span<const std::byte> head) {
  // First, since a file's name may begin as any of them.
  if (head.size() == kTarBlockBytes && IsTarHeader(head.first<kTarBlockBytes>()))
    return LayerCompression::kNone;
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  if (text.starts_with("\x1f\x8b"sv)) return LayerCompression::kGzip;
  if (IsZstd(text)) return LayerCompression::kZstd;
  for (const Magic& foreign : kForeign) {
    if (!text.starts_with(foreign.bytes)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the layer is compressed by ", p2p::Abs(foreign.name),
                     "; the layers of an image are tar archives, plain or compressed by gzip or zstd"));
  }
  return LayerCompression::kNone;
}

}  // namespace

LayerStream::LayerStream(std::unique_ptr<ByteStream> archive, LayerCompression compression,
                         const GzipStream* gzip, uint64_t bytes_max)
    : archive_(std::move(archive)), compression_(compression), gzip_(gzip), bytes_max_(bytes_max) {}

LayerStream::~LayerStream() = default;

absl::StatusOr<std::unique_ptr<LayerStream>> LayerStream::Open(std::unique_ptr<ByteStream> layer,
                                                               uint64_t bytes_max) {
  std::vector<std::byte> head(kTarBlockBytes);
  absl::StatusOr<size_t> n = ReadFully(*layer, head);
  if (!n.ok()) return n.status();
  head.resize(*n);
  absl::StatusOr<LayerCompression> compression = Detect(head);
  if (!compression.ok()) return compression.status();

  std::unique_ptr<ByteStream> archive = std::make_unique<Rejoined>(std::move(head), std::move(layer));
  const GzipStream* gzip = nullptr;
  if (*compression == LayerCompression::kGzip) {
    auto stream = std::make_unique<GzipStream>(std::move(archive));
    gzip = stream.get();
    archive = std::move(stream);
  } else if (*compression == LayerCompression::kZstd) {
    archive = std::make_unique<ZstdStream>(std::move(archive));
  }
  return std::unique_ptr<LayerStream>(new LayerStream(std::move(archive), *compression, gzip, bytes_max));
}

absl::StatusOr<size_t> LayerStream::Read(std::span<std::byte> buffer) {
  if (!status_.ok()) return status_;
  absl::StatusOr<size_t> n = archive_->Read(buffer);
  if (!n.ok()) return status_ = n.status();
  bytes_ += *n;
  if (bytes_ > bytes_max_) {
    return status_ = absl::ResourceExhaustedError(
               absl::StrCat("the layer unpacks to more than the ", bytes_max_,
                            " bytes that one of its size may, as a decompression bomb does; a larger "
                            "--unpack-ratio-max allows it"));
  }
  sha256_.Update(buffer.first(*n));
  return *n;
}

absl::StatusOr<Digest> LayerStream::Finish() {
  std::vector<std::byte> buffer(kDrainBytes);
  while (true) {
    absl::StatusOr<size_t> n = Read(buffer);
    if (!n.ok()) return n.status();
    if (*n == 0) return sha256_.Finish();
  }
}

uint64_t LayerStream::trailing_bytes() const {
  return gzip_ == nullptr ? 0 : gzip_->trailing_bytes();
}

}  // namespace sluice
