#pragma once

#include <cstdint>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice {

// Names a read; never given twice.
using ReadId = uint64_t;

// What a read may do for chunks that are absent. Only kFetch starts or hurries anything. The other two join
// what others want of the same node, whoever asks, and are told NotFound as soon as that fails or is given
// up: so nothing is asked for on their behalf. They keep what is under way from being given up.
//
// Another node may wait by kIfFlowing for whatever flows: what moves depends on nobody who waits here, so no
// cycle comes of it. Whoever lets it wait by kIfUnderWay must keep nodes from waiting for each other.
enum class ReadMode {
  kFetch,
  kIfUnderWay,  // joins what is queued or asked for; else NotFound at once
  kIfFlowing,   // joins what was asked for and has begun to come; else NotFound at once
};

struct ReadRequest {
  BlobKey blob;
  ByteRange range;  // within the blob, not empty
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
  Asker asker = Asker::kLocal;
  Grant grant = nullptr;
  ReadMode mode = ReadMode::kFetch;
};

// What a completed read tells: the bytes of the range are in the store's file and may be read from there for
// as long as the lease is held.
struct ReadResult {
  SourceKind source = SourceKind::kLocal;  // the farthest place that any of its chunks came from
  Blob::Lease lease = {};
};
using ReadDone = absl::AnyInvocable<void(absl::StatusOr<ReadResult>) &&>;

}  // namespace sluice
