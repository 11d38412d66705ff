#pragma once

#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob_key.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice::ondemand {

// The promise to answer one read that the kernel has asked for and a process waits for. It is answered
// exactly once: by Complete, or with an error when it is dropped.
//
// Move-only. May be completed or dropped on any thread, also after its door has stopped.
class ReadTicket {
 public:
  // Called once, on the thread that completes or drops the ticket. Must not block.
  using Answer = absl::AnyInvocable<void(absl::Status) &&>;

  // REQUIRES: range is not empty, answer is not null
  ReadTicket(const BlobKey& key, ByteRange range, Instant deadline, Answer answer)
      : key_(key), range_(range), deadline_(deadline), answer_(std::move(answer)) {}
  ReadTicket(ReadTicket&& other) noexcept
      : key_(other.key_),
        range_(other.range_),
        deadline_(other.deadline_),
        answer_(std::exchange(other.answer_, nullptr)) {}
  ReadTicket& operator=(ReadTicket&&) = delete;
  ~ReadTicket() {
    if (answer_) std::exchange(answer_, nullptr)(absl::AbortedError("the read was dropped unanswered"));
  }

  const BlobKey& key() const { return key_; }
  // What the reader needs, within the blob.
  ByteRange range() const { return range_; }
  // When the kernel is given an error on the reader's behalf; completing later has no effect.
  Instant deadline() const { return deadline_; }

  // OK lets the kernel read the range from the blob's file: every byte of it is there. Anything else makes
  // the reader fail with EIO. REQUIRES: called at most once
  void Complete(absl::Status status) && { std::exchange(answer_, nullptr)(std::move(status)); }

 private:
  BlobKey key_;
  ByteRange range_;
  Instant deadline_;
  Answer answer_;
};

}  // namespace sluice::ondemand
