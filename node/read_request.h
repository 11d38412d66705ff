#pragma once

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

struct ReadRequest {
  BlobKey blob;
  ByteRange range;  // within the blob, not empty
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
  Asker asker = Asker::kLocal;
  Grant grant = nullptr;
};

// What a completed read tells: the bytes of the range are in the store's file and may be read from there for
// as long as the lease is held.
struct ReadResult {
  SourceKind source = SourceKind::kLocal;  // the farthest place that any of its chunks came from
  Blob::Lease lease = {};
};
using ReadDone = absl::AnyInvocable<void(absl::StatusOr<ReadResult>) &&>;

}  // namespace sluice
