#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/digest.h"
#include "node/image/byte_stream.h"
#include "p2p/recipe/sha256.h"

namespace sluice {

class GzipStream;

enum class LayerCompression : uint8_t { kNone, kGzip, kZstd };

// A layer's archive, out of a layer as a registry has it. How it is compressed is taken from its bytes: media
// types are often wrong about it. Hashes what it gives.
class LayerStream final : public ByteStream {
 public:
  // A layer of no bytes is an archive of none. `bytes_max` is the archive's (LayerLimits::UnpackedBytesMax).
  // Errors: InvalidArgument (a compression that no layer may have; it is named), and the layer's.
  static absl::StatusOr<std::unique_ptr<LayerStream>> Open(std::unique_ptr<ByteStream> layer,
                                                           uint64_t bytes_max);
  ~LayerStream() override;

  // Errors, which stay: InvalidArgument (the layer is damaged or cut off), ResourceExhausted (it unpacks to
  // more than `bytes_max`, or wants too much memory), and the layer's.
  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override;

  // Reads what is left, since archives are followed by padding that counts. Returns the digest of the whole
  // archive: the layer's diff id (OCI image specification, config.md). To be called once. Errors: as Read.
  absl::StatusOr<Digest> Finish();

  LayerCompression compression() const { return compression_; }
  uint64_t bytes() const { return bytes_; }  // of the archive, so far
  // Bytes behind a gzip stream that belong to none and are not zeros, left out as gzip(1) does; known after
  // Finish.
  uint64_t trailing_bytes() const;

 private:
  LayerStream(std::unique_ptr<ByteStream> archive, LayerCompression compression, const GzipStream* gzip,
              uint64_t bytes_max);

  const std::unique_ptr<ByteStream> archive_;
  const LayerCompression compression_;
  const GzipStream* const gzip_;  // the archive, if it is one
  const uint64_t bytes_max_;
  p2p::Sha256 sha256_;
  uint64_t bytes_ = 0;
  absl::Status status_;
};

}  // namespace sluice
