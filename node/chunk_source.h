#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "node/blob.h"
#include "node/chunk_memory.h"
#include "node/executor.h"
#include "node/fetch_handle.h"

namespace sluice {

// Bytes on their way from a source to the store. Move-only, not initialised on creation.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) : bytes_(ChunkMemory::Shared().Take(size)), size_(size) {}
  // Others may read the bytes, too: from now on nobody writes those that they know of.
  Buffer(std::shared_ptr<std::byte[]> bytes, size_t size) : bytes_(std::move(bytes)), size_(size) {}
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
  std::shared_ptr<std::byte[]> bytes_;
  size_t size_ = 0;
};

// Why bytes are wanted; strict order for demand, weighted below it.
enum class FetchClass { kDemand, kReadahead, kHint, kBackfill };
inline constexpr int kFetchClassCount = 4;
const char* FetchClassName(FetchClass fetch_class);
// Whether nobody waits for it, nor reads towards it.
constexpr bool IsFill(FetchClass fetch_class) {
  return fetch_class == FetchClass::kHint || fetch_class == FetchClass::kBackfill;
}

// Where bytes that a reader got came from.
enum class SourceKind { kLocal, kPeer, kOrigin };
inline constexpr int kSourceKindCount = 3;
const char* SourceKindName(SourceKind kind);

// Which of those that a source asks sent a chunk; a source numbers them as it likes.
using SenderId = uint32_t;

// Who is behind a read: somebody on this host, or a container runtime of it, which is answered as a reader is
// and not counted as one; a node of this zone, for which this one asks other zones; or any node, for which it
// asks the registry. Whoever comes later in this order never waits for what this node asks of a third by the
// right of one before: waits between nodes could form a cycle.
enum class Asker { kLocal, kRuntime, kZone, kPeer };
// By whose right it is asked for.
constexpr Asker RightOf(Asker asker) {
  return asker == Asker::kRuntime ? Asker::kLocal : asker;
}

// The right by which somebody reads what is not public; the core only hands it on and compares it by address.
class AskerGrant {
 public:
  virtual ~AskerGrant() = default;
};
using Grant = std::shared_ptr<const AskerGrant>;  // null: what is public

// Counts what a fetch brings, byte by byte and long before a chunk is whole: who waits sees by it whether the
// source is silent. Thread-safe.
class FetchProgress {
 public:
  // Told of the first byte and of the first sign; on the source's thread. Must not block.
  using OnChange = std::function<void()>;

  // `on_break`: as on_change, each time that what came breaks off.
  explicit FetchProgress(const Clock& clock, OnChange on_change = nullptr, OnChange on_break = nullptr)
      : clock_(clock), on_change_(std::move(on_change)), on_break_(std::move(on_break)) {}

  // Called by the source as bytes come.
  void Add(uint64_t bytes) {
    const Duration now = clock_.Now().time_since_epoch();
    Duration never{};
    const bool first = first_byte_.compare_exchange_strong(never, now, std::memory_order_relaxed);
    last_byte_.store(now, std::memory_order_relaxed);
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
    flows_.store(true, std::memory_order_relaxed);
    if (first && on_change_) on_change_();
  }

  // The source lives, though it has no byte yet. `patience`: the origin has asked for it, so that nobody else
  // would be quicker.
  void Sign(bool patience = false) {
    const Duration now = clock_.Now().time_since_epoch();
    Duration never{};
    const bool first = first_sign_.compare_exchange_strong(never, now, std::memory_order_relaxed);
    last_sign_.store(now, std::memory_order_relaxed);
    patience_.store(patience, std::memory_order_relaxed);
    if (first && on_change_) on_change_();
  }

  // What has come of a chunk comes no further: the source asks somebody else for it, or the same again.
  void BreaksOff() {
    if (flows_.exchange(false, std::memory_order_relaxed) && on_break_) on_break_();
  }

  // What comes is part of an answer that was on its way before it was asked for: how long its first byte
  // takes says nothing of the source.
  void GoesOn() { goes_on_.store(true, std::memory_order_relaxed); }

  // Whether bytes have come that are not broken off; they may have stopped.
  bool flows() const { return flows_.load(std::memory_order_relaxed); }
  bool goes_on() const { return goes_on_.load(std::memory_order_relaxed); }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // When the first and the last byte and sign came; Instant() before.
  Instant first_byte() const { return Instant(first_byte_.load(std::memory_order_relaxed)); }
  Instant last_byte() const { return Instant(last_byte_.load(std::memory_order_relaxed)); }
  Instant first_sign() const { return Instant(first_sign_.load(std::memory_order_relaxed)); }
  Instant last_sign() const { return Instant(last_sign_.load(std::memory_order_relaxed)); }
  bool patience() const { return patience_.load(std::memory_order_relaxed); }

 private:
  const Clock& clock_;
  const OnChange on_change_, on_break_;  // may be null
  std::atomic<uint64_t> bytes_{0};
  std::atomic<Duration> first_byte_{Duration{}};
  std::atomic<Duration> last_byte_{Duration{}};
  std::atomic<Duration> first_sign_{Duration{}};
  std::atomic<Duration> last_sign_{Duration{}};
  std::atomic<bool> patience_{false};
  std::atomic<bool> goes_on_{false};
  std::atomic<bool> flows_{false};
};

class ChunkFlows;

struct FetchRequest {
  std::shared_ptr<Blob> blob;
  ChunkSpan chunks;  // contiguous, count > 0
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
  Asker asker = Asker::kLocal;
  Grant grant = nullptr;
  std::shared_ptr<FetchProgress> progress;  // never null
  ChunkFlows* flows = nullptr;  // where others see chunks that come; outlives the fetch; null: nobody does
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
  // (anything else; it may pass), Cancelled (by the handle, or the source is stopped).
  using OnDone = absl::AnyInvocable<void(absl::Status) &&>;

  virtual ~ChunkSource() = default;

  virtual SourceKind kind() const = 0;
  // Begins to fetch; returns at once. OnDone comes at request.deadline at the latest, and soon after the
  // handle is dropped; it may come before this returns.
  [[nodiscard]] virtual FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) = 0;
  // A chunk that `sender` sent was held against its bound recipe. Any thread.
  enum class Verdict { kRight, kWrong };
  virtual void Judge(SenderId sender, const Blob& blob, ChunkIndex index, Verdict verdict) = 0;
  // A chunk that `sender` sent is about to be stored though nothing proves it. Any thread; sources that have
  // nobody to blame later don't care.
  virtual void KeptUnproven(SenderId, const Blob&, ChunkIndex, std::span<const std::byte>) {}
  // Somebody else, who was asked later because it was late, brought what it had been asked for first; or it
  // was `stalled` with that. Core loop; must not block.
  virtual void NoteOutrun(bool /*stalled*/) {}
};

}  // namespace sluice
