#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "node/blob.h"
#include "node/chunk_set.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "node/work_source.h"

namespace sluice {

// How far is read ahead of a stream: not at all; the widest window at once; or as far as has paid so far.
enum class ReadaheadMode { kOff, kFixed, kAdaptive };

// Recognises streams of demands within a blob and fetches ahead of them: forward and backward ones from the
// second demand in a row, strided ones from the third at equal distances. A stream's window is one chunk
// first, doubles whenever half of it has been read, and has a limit; at that, more is asked for in long runs,
// each about two round trips before the end of the last.
//
// Adaptive, each blob has a credit of chunks: one is spent for each chunk asked for, and given back with
// something on top when that chunk is read. What is never read stays spent, so windows shrink to nothing
// where reading ahead does not pay. Demands alone earn little: at most so much of what is read is wasted in
// the long run. See the constants.
//
// Adaptive, a demand that continues no stream is answered with what follows it, too: as many chunks as come
// in the time of a round trip, which is what the next demand would take. That is earned: it goes on while
// half of such extras are read.
//
// A chunk fetched ahead counts as used when a demand for it is seen, or when its stream has gone on beyond
// it; as unread when its stream is given up before. The keeper and the page cache answer reads of present
// chunks unseen. So a stream that skipped a chunk counts as having read it, and the last chunks of a stream,
// read unseen, count as unread: the figures are estimates, of which the second errs against reading ahead.
//
// Owned by the core loop. Not thread-safe.
class Amplifier {
 public:
  static constexpr size_t kStreamsPerBlobMax = 16;
  static constexpr size_t kBlobsMax = 1024;
  // A stream that was not continued for so long is given up when its blob is read next.
  static constexpr Duration kIdleMax = std::chrono::seconds(60);

  // Credit, in parts of a chunk.
  static constexpr int64_t kCreditPerChunk = 32;
  static constexpr int64_t kFirstCredit = 4 * kCreditPerChunk;
  static constexpr int64_t kForDemand = 1;    // a demanded chunk
  static constexpr int64_t kForUse = 8;       // on top, for a chunk used
  static constexpr int64_t kForLongUse = 64;  // the same in a long stream
  static constexpr int64_t kForLongDemand = 8;
  static constexpr uint32_t kLongRun = 8;  // chunks in a row that make a stream long

  static constexpr uint32_t kExtrasMax = 3;     // chunks that follow a demand
  static constexpr uint32_t kExtrasTrust = 16;  // before they are known to be read, or not

  struct Options {
    ReadaheadMode mode = ReadaheadMode::kAdaptive;
    uint64_t window_bytes_max = 8 << 20;  // 0 turns it off; any other is at least one chunk
  };

  // `telemetry` outlives it and what Advance gave.
  Amplifier(Options options, Telemetry& telemetry) : options_(options), telemetry_(telemetry) {}

  // Notes a demand. Gives what has chunks to fetch ahead of it now; null when there is nothing to be gained.
  // What has been read by the time that it is asked is passed over. REQUIRES: demanded.count > 0, within the
  // blob; `per_trip` tells how many chunks a round trip is worth, and is called at most once
  std::shared_ptr<WorkSource> Advance(const std::shared_ptr<Blob>& blob, ChunkSpan demanded, Instant now,
                                      absl::FunctionRef<uint32_t()> per_trip);
  // Readers have read these while they were present.
  void Touched(const std::shared_ptr<Blob>& blob, const ChunkSet& touched);

 private:
  class Streams;
  struct Held {
    std::shared_ptr<Streams> streams;
    std::list<const Blob*>::iterator age;
  };

  const std::shared_ptr<Streams>& StreamsOf(const std::shared_ptr<Blob>& blob);
  std::shared_ptr<Streams> NewStreams(const std::shared_ptr<Blob>& blob) const;

  const Options options_;
  Telemetry& telemetry_;
  absl::flat_hash_map<const Blob*, Held> blobs_;
  std::list<const Blob*> ages_;  // the least recently read blob first
};

}  // namespace sluice
