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

// What a read may do for chunks that are absent. Only kFetch starts or hurries anything. The others join
// what others want of the same node, whoever asks, and are told NotFound as soon as that fails or is given
// up: so nothing is asked for on their behalf. They keep what is under way from being given up.
//
// Another node may wait by kIfFlowing for whatever flows: what moves depends on nobody who waits here, so no
// cycle comes of it. kIfUnderWay also waits for what has not begun to come, if this node gets it by its own
// right: not from a node that it waits for as one waits for a home. What is left is that holders let each
// other wait: whoever gives kIfUnderWay to another node does so only where all nodes agree which of the two
// comes first, so that waits go one way. Source: PEERS.md, "Who may ask the origin". kIfAskedFor joins
// whatever is asked for: it may wait in a circle, and so only for some milliseconds.
enum class ReadMode {
  kFetch,
  kIfUnderWay,  // joins what was asked for by own right, and is neither silent nor stalled; or flows
  kIfFlowing,   // joins what was asked for and has begun to come; else NotFound at once, as above
  kIfAskedFor,  // joins what was asked for; else the same
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

// What the wait of a read went into, one after the other, and together all of it: of the chunk that came
// last.
struct ReadTimes {
  Duration queued{};    // nobody had been asked whose answer counted: no slot was free, or another had failed
  Duration answer{};    // it was asked for, and nothing had come
  Duration wire{};      // it came
  Duration verified{};  // it was held against its recipe
  Duration stored{};    // it was written, and whoever waits was told
  bool foreseen = false;  // it had been asked for ahead of any reader, and before this one began
};

// What a completed read tells: the bytes of the range are in the store's file and may be read from there for
// as long as the lease is held.
struct ReadResult {
  SourceKind source = SourceKind::kLocal;  // the farthest place that any of its chunks came from
  Blob::Lease lease = {};
  ReadTimes times = {};  // zeros if nothing was absent
};
// Whether somebody on this host reads it from a mount, or as one who does.
constexpr bool IsReaders(FetchClass fetch_class, Asker asker) {
  return fetch_class == FetchClass::kDemand && asker == Asker::kLocal;
}
using ReadDone = absl::AnyInvocable<void(absl::StatusOr<ReadResult>) &&>;

}  // namespace sluice
