#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "node/image/byte_stream.h"

namespace sluice {

// The contents of a gzip file (RFC 1952): of all its members, one after another, each held against its
// checksum. What follows the last member and is none is left out, as gzip(1) does: tools pad with zeros.
class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(std::unique_ptr<ByteStream> compressed);
  ~GzipStream() override;

  // Errors: InvalidArgument (damaged, or it ends within a member), and those of the compressed stream.
  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override;

  // Bytes behind the last member, of which one at least is not zero; known at the end, until then 0.
  uint64_t trailing_bytes() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace sluice
