#include "node/image/gzip_stream.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice {
namespace {

constexpr size_t kInputBytes = 128 << 10;
constexpr int kGzipWindowBits = 15 + 16;  // zlib's way to say: the largest window, and gzip's framing only
constexpr std::array<Bytef, 2> kMagic = {0x1f, 0x8b};

absl::Status Damaged(std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the layer is damaged: its gzip stream ", p2p::Abs(why)));
}

}  // namespace

struct GzipStream::State {
  explicit State(std::unique_ptr<ByteStream> stream) : compressed(std::move(stream)), input(kInputBytes) {
    zlib.next_in = input.data();
    if (inflateInit2(&zlib, kGzipWindowBits) != Z_OK) throw std::bad_alloc();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { inflateEnd(&zlib); }

  // Makes at least `wanted` bytes of input available, fewer at its end.
  absl::Status Fill(size_t wanted) {
    while (zlib.avail_in < wanted && !input_ended) {
      std::memmove(input.data(), zlib.next_in, zlib.avail_in);
      zlib.next_in = input.data();
      absl::StatusOr<size_t> n =
          compressed->Read(std::as_writable_bytes(std::span(input)).subspan(zlib.avail_in));
      if (!n.ok()) return n.status();
      input_ended = *n == 0;
      zlib.avail_in += static_cast<uInt>(*n);
    }
    return absl::OkStatus();
  }

  // Whether another member begins here; if not, what is left is none, and is counted.
  absl::StatusOr<bool> BeginMember() {
    if (absl::Status filled = Fill(kMagic.size()); !filled.ok()) return filled;
    const size_t have = std::min<size_t>(zlib.avail_in, kMagic.size());
    if (have > 0 && std::equal(kMagic.begin(), kMagic.begin() + have, zlib.next_in)) {
      // Of a header that is cut off zlib says so itself.
      if (inflateReset(&zlib) != Z_OK) return Damaged("can't be read on");
      return true;
    }
    return SkipTrailer();
  }

  absl::StatusOr<bool> SkipTrailer() {
    uint64_t bytes = 0;
    bool zeros = true;
    while (true) {
      if (absl::Status filled = Fill(1); !filled.ok()) return filled;
      if (zlib.avail_in == 0) break;
      zeros =
          zeros && std::all_of(zlib.next_in, zlib.next_in + zlib.avail_in, [](Bytef b) { return b == 0; });
      bytes += zlib.avail_in;
      zlib.next_in += zlib.avail_in;
      zlib.avail_in = 0;
    }
    if (!zeros) trailing_bytes = bytes;
    return false;
  }

  const std::unique_ptr<ByteStream> compressed;
  std::vector<Bytef> input;
  z_stream zlib{};
  bool input_ended = false;
  bool in_member = true;  // the first one is taken for granted: zlib says if it is none
  bool ended = false;
  uint64_t trailing_bytes = 0;
};

GzipStream::GzipStream(std::unique_ptr<ByteStream> compressed)
    : state_(std::make_unique<State>(std::move(compressed))) {}

GzipStream::~GzipStream() = default;

uint64_t GzipStream::trailing_bytes() const {
  return state_->trailing_bytes;
}

absl::StatusOr<size_t> GzipStream::Read(std::span<std::byte> buffer) {
  State& state = *state_;
  z_stream& zlib = state.zlib;
  const auto room = static_cast<uInt>(std::min<size_t>(buffer.size(), std::numeric_limits<uInt>::max()));
  zlib.next_out = reinterpret_cast<Bytef*>(buffer.data());
  zlib.avail_out = room;
  while (!state.ended && zlib.avail_out == room) {
    if (!state.in_member) {
      absl::StatusOr<bool> more = state.BeginMember();
      if (!more.ok()) return more.status();
      state.in_member = *more;
      state.ended = !*more;
      continue;
    }
    if (absl::Status filled = state.Fill(1); !filled.ok()) return filled;
    const int result = inflate(&zlib, Z_NO_FLUSH);
    if (result == Z_MEM_ERROR) return absl::ResourceExhaustedError("no memory to decompress the layer");
    if (result == Z_STREAM_END) {
      state.in_member = false;
    } else if (result == Z_BUF_ERROR) {
      return Damaged("ends too early");
    } else if (result != Z_OK) {
      return Damaged(absl::StrCat("can't be read: ", zlib.msg != nullptr ? zlib.msg : "it is none"));
    }
  }
  return room - zlib.avail_out;
}

}  // namespace sluice
