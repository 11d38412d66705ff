#pragma once

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"

namespace sluice {

// What is known of a chunk's bytes when they are written.
enum class Evidence {
  kUnverified,  // no bound recipe; they stand or fall with the whole blob's digest
  kVerified,    // they match the leaf of a bound recipe
};

// Port: where chunks lie on disk. Implemented by index/.
//
// Thread-safe. Open, Commit and Revoke may block on disk: call them on the I/O pool. Find and Acquire take no
// disk access.
//
// An error of these says by its code what may be done about it:
// - Unavailable: the same call may be tried again. Too much waits for the disk to sync, the file was lost or
//   its sync failed while it was written to, the kernel's side has not heard yet of what was taken back, or
//   the disk failed.
// - NotFound: the blob was evicted meanwhile; after another Open.
// - FailedPrecondition: the chunk has no proof, and several repositories' readers share the blob; not before
//   its recipe is there.
// - ResourceExhausted: no space; not before room was made.
// - DataLoss: the blob is refused; not before it was evicted.
// - InvalidArgument: never.
class ChunkStore {
 public:
  virtual ~ChunkStore() = default;

  // The blob that readers of what `spec` says may read: one whose whole digest was hashed, or of which the
  // same is claimed; registered first if there is none. Origins, and a root where none was known, are added
  // to one that is known already. Hearsay adds nothing to what is known: it shares only what says exactly the
  // same of that origin, and is shared by nobody else. Errors: InvalidArgument if the spec contradicts the
  // digest's proven size, or is out of bounds; ResourceExhausted; Unavailable (the disk; or the blob is being
  // evicted, and that takes long).
  virtual absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) = 0;

  // The blob that is kept by that key, else nullptr.
  virtual std::shared_ptr<Blob> Find(const BlobKey& key) const = 0;

  // Of the blobs of that digest one whose whole digest was hashed, else the one that has the digest's name;
  // else nullptr.
  virtual std::shared_ptr<Blob> FindBest(const Digest& digest) const { return Find(digest); }

  // A lease that no eviction can overtake. No disk access. Errors: NotFound (not registered, or just being
  // evicted); DataLoss (refused).
  virtual absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const = 0;

  // Writes a chunk's bytes and makes it servable: when this returns OK its presence bit is set. The durable
  // claim follows in a later batch, after the bytes were synced; if that sync fails, the bit is cleared
  // again. Committing a chunk that is already present writes nothing, unless `evidence` is better than what
  // is known. Errors: ResourceExhausted (no space), Unavailable (any other failure to write: the same bytes
  // may be committed again), NotFound (the blob was evicted), DataLoss (it is refused),
  // FailedPrecondition (see above); then the chunk is
  // absent. REQUIRES: bytes.size() == blob.geometry().RangeOf(index).length
  virtual absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                              Evidence evidence) = 0;

  // Takes a bad chunk back: clears its bit at once, then its durable claim and the right of the kernel to
  // read it unasked. The bytes stay where they are until they are overwritten, which waits for both. Errors:
  // ResourceExhausted, Unavailable (the bit is clear, but the claim, or the kernel's right, is not gone yet).
  virtual absl::Status Revoke(Blob& blob, ChunkIndex index) = 0;
};

}  // namespace sluice
