#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/geometry.h"

namespace sluice {

// A blob's file, open for reading for as long as this lives: a chunk's bytes lie at their own offset. What is
// not present reads as zeros, so presence is asked for before each read.
class BlobFile {
 public:
  virtual ~BlobFile() = default;
  virtual int descriptor() const = 0;
};

// Port: the stored bytes, for those who give them to other nodes. Implemented by index/.
//
// Thread-safe.
class BlobReader {
 public:
  virtual ~BlobReader() = default;

  // May block on disk. Errors: NotFound (no such blob); DataLoss (refused, or the file was lost);
  // Unavailable.
  virtual absl::StatusOr<std::shared_ptr<const BlobFile>> OpenFile(const BlobKey& key) = 0;

  // Whether every chunk of the span is present and proven, by a bound recipe or by the blob's whole digest.
  // No disk access. REQUIRES: the span is within the blob
  virtual bool AllProven(const Blob& blob, ChunkSpan span) const = 0;
};

}  // namespace sluice
