#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "node/executor.h"
#include "node/fetch_handle.h"
#include "node/geometry.h"
#include "node/telemetry.h"
#include "p2p/registry/registry_client.h"

namespace sluice::p2p {

// Reads ranges of blobs, those of a long stream by one request. To begin an answer costs a registry as much
// as to send megabytes, and the way to it has to be filled anew each time; so a long range that is read
// ahead, and what fills ask for in a row, is asked for with all that follows it in its run: the blob, or the
// part of it that is this node's to fetch. Whoever asks for what follows goes on with that answer, but no
// fill with a reader's. While nobody does it is not taken in: what the registry has sent by then, at most the
// connection's buffers, is all that is wasted when it is given up after a while. Where that happens it is
// tried more seldom, twice as seldom each time.
//
// Each range is given as if it had been asked for alone. One that waits behind others is asked for alone when
// a reader comes to wait for it and much comes before it, when what it waits for breaks off, or when that is
// cancelled; so is the first where the server gives no such long range.
//
// Thread-safe. What is under way outlives it safely.
class LongReads {
 public:
  static constexpr size_t kReadsMax = 8;  // at once, for they hold places; beyond, ranges come one by one
  static constexpr size_t kFillsMax = 4;  // of these
  static constexpr Duration kAskedKept = std::chrono::seconds(10);  // so long a range counts as asked for
  static constexpr size_t kRowsMax = 8;                          // of fills, of one stream, that are followed
  static constexpr Duration kHeldMax = std::chrono::seconds(2);  // while nobody goes on with it
  static constexpr Duration kTimeMax = std::chrono::minutes(10);  // of one request
  static constexpr uint32_t kPaidFrom = 4;        // ranges after the first, for it to be worth it
  static constexpr uint32_t kPassedOverMax = 64;  // times in a row
  static constexpr size_t kStreamsMax = 256;      // of which it is remembered; beyond, all are forgotten

  struct Limits {
    uint64_t long_bytes = 2 << 20;         // a range as long as that begins a long read
    uint64_t queued_bytes_max = 16 << 20;  // that one may wait for
    // So many ranges of hinted fills follow each other before one may begin: they skip what is not needed.
    uint32_t hinted_in_a_row = 3;
    // As queued_bytes_max, of a reader: they would have the way to themselves. Behind fills he waits for
    // none.
    uint64_t reader_bytes_max = 2 << 20;
  };

  struct Parts {
    // As RegistryClient::ReadBlobPaced and After, which all callbacks are called by.
    std::function<std::shared_ptr<PacedControl>(BlobRead, RegistryClient::Takes)> read;
    std::function<void(Duration, Task)> after;
    const Clock& clock;
    Limits limits = {};
    // Told of each long read; must not block, nor call this.
    std::function<void(LongReadResult)> on_over = nullptr;
  };
  explicit LongReads(Parts parts);
  ~LongReads();

  struct Begun {
    std::shared_ptr<FetchControl> control;
    bool goes_on = false;  // with an answer that was on its way: its first byte says nothing of the registry
  };
  // As RegistryClient::ReadBlobRange. `run`: of the same blob; what a long read of it would bring ends with
  // it. REQUIRES: the run begins no later than the range
  Begun Read(BlobRead read, ByteRange run);

  size_t under_way() const;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace sluice::p2p
