#include "node/image/zstd_stream.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <new>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice {

struct ZstdStream::State {
  explicit State(std::unique_ptr<ByteStream> stream)
      : compressed(std::move(stream)), bytes(ZSTD_DStreamInSize()), context(ZSTD_createDCtx()) {
    if (context == nullptr) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, kZstdWindowLogMax);
    input.src = bytes.data();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { ZSTD_freeDCtx(context); }

  absl::Status Fill() {
    if (input.pos < input.size || input_ended) return absl::OkStatus();
    absl::StatusOr<size_t> n = compressed->Read(bytes);
    if (!n.ok()) return n.status();
    input_ended = *n == 0;
    input.size = *n;
    input.pos = 0;
    return absl::OkStatus();
  }

  const std::unique_ptr<ByteStream> compressed;
  std::vector<std::byte> bytes;
  ZSTD_DCtx* const context;
  ZSTD_inBuffer input{};
  bool input_ended = false;
  bool in_frame = false;
};

ZstdStream::ZstdStream(std::unique_ptr<ByteStream> compressed)
    : state_(std::make_unique<State>(std::move(compressed))) {}

ZstdStream::~ZstdStream() = default;

absl::StatusOr<size_t> ZstdStream::Read(std::span<std::byte> buffer) {
  State& state = *state_;
  while (true) {
    if (absl::Status filled = state.Fill(); !filled.ok()) return filled;
    // Asked between two frames, libzstd would say that it waits for the next.
    if (state.input_ended && !state.in_frame) return 0;
    ZSTD_outBuffer output{buffer.data(), buffer.size(), 0};
    const size_t result = ZSTD_decompressStream(state.context, &output, &state.input);
    if (ZSTD_isError(result)) {
      const std::string why =
          absl::StrCat("the layer's zstd stream can't be read: ", ZSTD_getErrorName(result));
      return ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge
                 ? absl::ResourceExhaustedError(
                       absl::StrCat(why, " (over ", 1 << (kZstdWindowLogMax - 20), " MiB)"))
                 : absl::InvalidArgumentError(why);
    }
    state.in_frame = result != 0;
    if (output.pos > 0) return output.pos;
    if (state.input_ended && state.in_frame) {
      return absl::InvalidArgumentError("the layer is damaged: its zstd stream ends too early");
    }
  }
}

}  // namespace sluice
