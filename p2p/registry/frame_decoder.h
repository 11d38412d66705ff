#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

struct ZSTD_DCtx_s;

namespace sluice::p2p {

struct FreeDecoder {
  void operator()(ZSTD_DCtx_s* context) const;
};

// A frame may ask for no more memory than this for its window: what the tool zstd takes unasked.
inline constexpr uint64_t kZstdWindowMax = uint64_t{128} << 20;

// Turns zstd frames that came from outside back into plain bytes. Movable; one thread at a time.
// Source: RFC 8878.
class FrameDecoder {
 public:
  FrameDecoder();

  // Decodes exactly one frame into exactly `plain`, and writes nowhere else. What is in `plain` after an
  // error is not to be used. Errors: DataLoss, if `frame` is not one whole frame and nothing else, is broken,
  // asks for a window above kZstdWindowMax or for a dictionary, or its plain bytes are not as many.
  absl::Status Decode(std::span<const std::byte> frame, std::span<std::byte> plain);

 private:
  std::unique_ptr<ZSTD_DCtx_s, FreeDecoder> context_;
};

// The same for frames one after another, skippable ones among them, of which the bytes come piece by piece.
// Takes memory for a frame's window, at most kZstdWindowMax, and 128 KiB. Movable; one thread at a time.
class StreamDecoder {
 public:
  using Out = absl::FunctionRef<absl::Status(std::span<const std::byte>)>;

  // The frames together have `plain_size` bytes.
  explicit StreamDecoder(uint64_t plain_size);

  // Decodes the next bytes; what comes out is told to `out`, whose error is returned. Errors: DataLoss, as
  // above, or more came out than there is.
  absl::Status Feed(std::span<const std::byte> bytes, Out out);
  // All bytes were fed. Errors: DataLoss, if the last frame is not whole, or too little came out.
  absl::Status Finish() const;

 private:
  const uint64_t plain_size_;
  uint64_t plain_ = 0;        // came out so far
  bool within_frame_ = true;  // or before the first
  std::unique_ptr<ZSTD_DCtx_s, FreeDecoder> context_;
  std::vector<std::byte> buffer_;
};

}  // namespace sluice::p2p
