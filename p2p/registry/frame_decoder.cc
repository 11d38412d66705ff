#include "p2p/registry/frame_decoder.h"

#include <zstd.h>

#include <bit>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

constexpr size_t kStreamBufferBytes = 128 << 10;
constexpr size_t kFrameHeadBytes = 6;  // magic number, descriptor, window descriptor
constexpr uint8_t kSingleSegmentFlag = 0x20;
constexpr uint8_t kDictionaryBits = 0x03;

std::unique_ptr<ZSTD_DCtx_s, FreeDecoder> NewContext() {
  std::unique_ptr<ZSTD_DCtx_s, FreeDecoder> context(ZSTD_createDCtx());
  if (context == nullptr) std::abort();  // for want of memory only
  return context;
}

absl::Status Lies(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("zstd frame: ", what));
}

// The window that a frame's header asks for; none: all of its plain bytes. RFC 8878, 3.1.1.1.
// REQUIRES: frame.size() >= kFrameHeadBytes
std::optional<uint64_t> WindowOf(std::span<const std::byte> frame) {
  if (static_cast<uint8_t>(frame[4]) & kSingleSegmentFlag) return std::nullopt;
  const auto descriptor = static_cast<uint8_t>(frame[5]);
  const uint64_t base = uint64_t{1} << (10 + (descriptor >> 3));
  return base + base / 8 * (descriptor & 7);
}

// A decoder that knows where to write needs no window, but a frame that lies is refused whatever it takes.
absl::Status CheckHead(std::span<const std::byte> frame, uint64_t plain_size) {
  if (frame.size() < kFrameHeadBytes) return Lies("it is cut off");
  const unsigned char magic[] = {0x28, 0xB5, 0x2F, 0xFD};
  for (size_t i = 0; i < sizeof(magic); ++i) {
    if (static_cast<uint8_t>(frame[i]) != magic[i]) return Lies("it is none");
  }
  if (static_cast<uint8_t>(frame[4]) & kDictionaryBits) return Lies("it needs a dictionary");
  if (const std::optional<uint64_t> window = WindowOf(frame); window && *window > kZstdWindowMax) {
    return Lies(absl::StrCat("its window has ", *window, " bytes, more than ", kZstdWindowMax));
  }
  const unsigned long long said = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (said == ZSTD_CONTENTSIZE_ERROR) return Lies("its header is broken");
  if (said != ZSTD_CONTENTSIZE_UNKNOWN && said != plain_size) {
    return Lies(absl::StrCat("it says that it has ", said, " plain bytes, not ", plain_size));
  }
  return absl::OkStatus();
}

}  // namespace

void FreeDecoder::operator()(ZSTD_DCtx_s* context) const {
  ZSTD_freeDCtx(context);
}

FrameDecoder::FrameDecoder() : context_(NewContext()) {}

absl::Status FrameDecoder::Decode(std::span<const std::byte> frame, std::span<std::byte> plain) {
  if (absl::Status valid = CheckHead(frame, plain.size()); !valid.ok()) return valid;
  // The decoder itself goes on with whatever frame follows.
  const size_t length = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(length)) return Lies(ZSTD_getErrorName(length));
  if (length != frame.size()) {
    return Lies(absl::StrCat("it has ", length, " bytes, and ", frame.size() - length, " follow it"));
  }
  const size_t decoded =
      ZSTD_decompressDCtx(context_.get(), plain.data(), plain.size(), frame.data(), frame.size());
  if (ZSTD_isError(decoded)) return Lies(ZSTD_getErrorName(decoded));
  if (decoded != plain.size()) {
    return Lies(absl::StrCat("it has ", decoded, " plain bytes, not ", plain.size()));
  }
  return absl::OkStatus();
}

StreamDecoder::StreamDecoder(uint64_t plain_size)
    : plain_size_(plain_size), context_(NewContext()), buffer_(kStreamBufferBytes) {
  constexpr int kWindowLog = std::countr_zero(kZstdWindowMax);
  if (ZSTD_isError(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kWindowLog))) std::abort();
}

absl::Status StreamDecoder::Feed(std::span<const std::byte> bytes, Out out) {
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  bool full = false;  // there may be more to come out though all was fed
  while (in.pos < in.size || full) {
    ZSTD_outBuffer plain{buffer_.data(), buffer_.size(), 0};
    const size_t left = ZSTD_decompressStream(context_.get(), &plain, &in);
    if (ZSTD_isError(left)) return Lies(ZSTD_getErrorName(left));
    within_frame_ = left != 0;
    full = within_frame_ && plain.pos == plain.size;
    if (plain.pos > plain_size_ - plain_) {
      return Lies(absl::StrCat("more than ", plain_size_, " plain bytes come out"));
    }
    plain_ += plain.pos;
    if (plain.pos == 0) continue;
    if (absl::Status taken = out(std::span(buffer_).first(plain.pos)); !taken.ok()) return taken;
  }
  return absl::OkStatus();
}

absl::Status StreamDecoder::Finish() const {
  if (within_frame_) return Lies("the last one is cut off");
  if (plain_ != plain_size_) {
    return Lies(absl::StrCat(plain_, " plain bytes came out, not ", plain_size_));
  }
  return absl::OkStatus();
}

}  // namespace sluice::p2p
