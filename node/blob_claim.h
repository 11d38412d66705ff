#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"

namespace sluice {

// What a node tells another of a blob that it asks for: all that one needs that never heard of it. On the
// wire it is the value of the header Sluice-Blob:
//
//   size=N; chunk=N; root=sha256:HEX; public=0|1; enc=plain|zstd-seekable; wire=sha256:HEX; wire-size=N;
//   table=OFFSET:SIZE:sha256:HEX
//
// in any order, with spaces or none. `size`, `chunk`, `public` and `enc` must be there; `wire` and
// `wire-size` too if it is compressed, and `table` if it then has several chunks. Of a plain blob they may be
// there if they say what digest and size say. Fields that are not known are ignored; none may come twice.
struct BlobClaim {
  // Of one origin: who is to be asked for it.
  BlobSpec spec;
  // Whether the origin is said to give it to who shows no credentials.
  enum class Access { kPublic, kNotPublic };
  Access access = Access::kNotPublic;
};

inline constexpr size_t kBlobClaimBytesMax = 1024;

// What `spec` says of the blob as `origin` keeps it.
std::string FormatBlobClaim(const BlobSpec& spec, const BlobOrigin& origin, BlobClaim::Access access);

// Reads a claim of the blob `digest` in `origin`, which the request's path names. Errors: InvalidArgument if
// it is malformed, too long, lacks something, or is within itself impossible: a geometry that
// ChunkGeometry::Validate refuses, or stored bytes that are no compression of the blob. It names the field.
absl::StatusOr<BlobClaim> ParseBlobClaim(std::string_view text, const Digest& digest,
                                         const BlobOrigin& origin);

}  // namespace sluice
