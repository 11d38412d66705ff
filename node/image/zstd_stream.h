#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "node/image/byte_stream.h"

namespace sluice {

// Larger windows are refused: so much memory is needed to read a frame.
inline constexpr int kZstdWindowLogMax = 27;  // 128 MiB, as zstd(1) has it

// The contents of a Zstandard file (RFC 8878): of all its frames, one after another; skippable ones hold
// nothing.
class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(std::unique_ptr<ByteStream> compressed);
  ~ZstdStream() override;

  // Errors: InvalidArgument (damaged, or it ends within a frame, or what follows a frame is none),
  // ResourceExhausted (a window over the bound), and those of the compressed stream.
  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace sluice
