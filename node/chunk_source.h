#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/executor.h"

namespace sluice {

// Bytes on their way from a source to the store. Move-only, not initialised on creation.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) : bytes_(new std::byte[size]), size_(size) {}
  Buffer(Buffer&& other) noexcept : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  size_t size() const { return size_; }
  std::byte* data() { return bytes_.get(); }
  std::span<const std::byte> span() const { return {bytes_.get(), size_}; }
  std::span<std::byte> span() { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  size_t size_ = 0;
};

// Why bytes are wanted; strict order for demand, weighted below it.
enum class FetchClass { kDemand, kReadahead, kHint, kBackfill };
inline constexpr int kFetchClassCount = 4;
const char* FetchClassName(FetchClass fetch_class);

// Where bytes that a reader got came from.
enum class SourceKind { kLocal, kPeer, kOrigin };
inline constexpr int kSourceKindCount = 3;
const char* SourceKindName(SourceKind kind);

// Which of those that a source asks sent a chunk; a source numbers them as it likes.
using SenderId = uint32_t;

struct FetchRequest {
  std::shared_ptr<Blob> blob;
  ChunkSpan chunks;  // contiguous, count > 0
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
};

// Somewhere that chunks can be had from: the origin registry, a peer, the swarm. Implemented by p2p/.
//
// Thread-safe.
class ChunkSource {
 public:
  // Called with each chunk as soon as its last byte is there, in any order, at most once per chunk, on a
  // thread of the source's; the buffer has exactly the chunk's length. Must not block for long.
  using OnChunk = absl::AnyInvocable<void(ChunkIndex, Buffer, SenderId)>;
  // Called exactly once, after the last OnChunk: OK only if every chunk of the request was delivered.
  // Errors: NotFound (the source lacks the blob), PermissionDenied / Unauthenticated, FailedPrecondition (it
  // refuses to be asked like this), DeadlineExceeded, DataLoss (it sent what it should not have), Unavailable
  // (anything else; it may pass).
  using OnDone = absl::AnyInvocable<void(absl::Status) &&>;

  virtual ~ChunkSource() = default;

  virtual SourceKind kind() const = 0;
  // Begins to fetch; returns at once. OnDone comes at request.deadline at the latest.
  virtual void Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) = 0;
  // A chunk that `sender` sent was held against its bound recipe. Any thread.
  enum class Verdict { kRight, kWrong };
  virtual void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) = 0;
};

}  // namespace sluice
