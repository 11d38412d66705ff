// How fast the cache's core loop is by itself: sources, store and verifier are fakes, everything runs on this
// thread.
//
// usage: core_loop misses|hits|settle COUNT
//   misses  reads of absent chunks per second, each fetched, stored and answered; COUNT reads
//   hits    reads of present chunks per second; COUNT reads
//   settle  nanoseconds for one fetch that ends and the next that starts, with COUNT blobs waiting
//
// It is also built against an earlier commit, whose sources are a list and whose reads give no lease:
// SLUICE_BENCH_BEFORE.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "node/blob_cache.h"

namespace sluice {
namespace {

constexpr uint32_t kChunk = kChunkSizeMin;
constexpr uint32_t kChunksPerBlob = 4096;

class RealClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now(); }
};

class Loop final : public Executor {
 public:
  void Post(Task task) override { tasks_.push_back(std::move(task)); }
  void PostAt(Instant, Task) override {}  // nothing here comes to its deadline
  bool RunOne() {
    if (tasks_.empty()) return false;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    std::move(task)();
    return true;
  }
  void RunAll() {
    while (RunOne()) {
    }
  }

 private:
  std::deque<Task> tasks_;
};

class Store final : public ChunkStore {
 public:
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override {
    auto& blob = blobs_[spec.digest];
    if (!blob) blob = std::make_shared<Blob>(spec);
    return blob;
  }
  std::shared_ptr<Blob> Find(const BlobKey& key) const override {
    const auto found = blobs_.find(key);
    return found == blobs_.end() ? nullptr : found->second;
  }
#ifndef SLUICE_BENCH_BEFORE
  absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const override {
    const auto found = blobs_.find(key);
    if (found == blobs_.end()) return absl::NotFoundError("no such blob");
    return Blob::Lease(found->second);
  }
#endif
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte>, Evidence) override {
    blob.presence().Set(index);
    return absl::OkStatus();
  }
  absl::Status Revoke(Blob& blob, ChunkIndex index) override {
    blob.presence().Clear(index);
    return absl::OkStatus();
  }

 private:
  absl::flat_hash_map<BlobKey, std::shared_ptr<Blob>> blobs_;
};

class Verifier final : public ChunkVerifier {
 public:
  absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex, std::span<const std::byte>) override {
    return Evidence::kVerified;
  }
};

// Keeps what it is asked for until AnswerOne.
class Source final : public ChunkSource {
 public:
  SourceKind kind() const override { return SourceKind::kOrigin; }
#ifdef SLUICE_BENCH_BEFORE
  void Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    calls_.push_back({std::move(request), std::move(on_chunk), std::move(on_done)});
  }
#else
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    calls_.push_back({std::move(request), std::move(on_chunk), std::move(on_done)});
    return {};
  }
  void Judge(SenderId, const Blob&, ChunkIndex, Verdict) override {}
#endif
  bool AnswerOne() {
    if (calls_.empty()) return false;
    Call call = std::move(calls_.front());
    calls_.pop_front();
    for (ChunkIndex i = call.request.chunks.first; i < call.request.chunks.end(); i = i.next()) {
#ifdef SLUICE_BENCH_BEFORE
      call.on_chunk(i, Buffer(call.request.blob->geometry().RangeOf(i).length));
#else
      call.on_chunk(i, Buffer(call.request.blob->geometry().RangeOf(i).length), SenderId{0});
#endif
    }
    std::move(call.on_done)(absl::OkStatus());
    return true;
  }

 private:
  struct Call {
    FetchRequest request;
    OnChunk on_chunk;
    OnDone on_done;
  };
  std::deque<Call> calls_;
};

class Bench {
 public:
  Bench() {
    BlobCacheLimits limits;
    limits.readahead_bytes_max = 0;
#ifdef SLUICE_BENCH_BEFORE
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, loop_, store_, verifier_, {&source_}, telemetry_}, limits);
#else
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{clock_, loop_, loop_, store_, verifier_, sources_, telemetry_}, limits);
#endif
  }

  std::shared_ptr<Blob> AddBlob(uint32_t name) {
    std::array<uint8_t, Digest::kBytes> bytes{};
    std::memcpy(bytes.data(), &name, sizeof name);
    return *store_.Open(
        {Digest(bytes), uint64_t{kChunk} * kChunksPerBlob, kChunk, std::nullopt, {{"registry", "app"}}});
  }

  void Read(const Blob& blob, uint32_t chunk) {
    ReadRequest request;
    request.blob = blob.digest();
    request.range = {uint64_t{chunk} * kChunk, kChunk};
    request.deadline = clock_.Now() + std::chrono::hours(1);
    cache_->Read(std::move(request), [this](absl::StatusOr<ReadResult> result) {
      if (absl::IsCancelled(result.status())) return;  // at the end
      if (!result.ok()) std::abort();
      ++answered_;
    });
  }

  // Per second.
  double Misses(uint32_t count) {
    std::vector<std::shared_ptr<Blob>> blobs;
    for (uint32_t i = 0; i <= count / kChunksPerBlob; ++i) blobs.push_back(AddBlob(i));
    const Instant started = clock_.Now();
    // As many at once as a busy host has.
    for (uint32_t done = 0; done < count;) {
      for (int i = 0; i < 32 && done < count; ++i, ++done) {
        // An order in which nothing is in sequence.
        Read(*blobs[done / kChunksPerBlob], done % kChunksPerBlob * 1021 % kChunksPerBlob);
      }
      do {
        loop_.RunAll();
      } while (source_.AnswerOne());
    }
    return PerSecond(count, started);
  }

  double Hits(uint32_t count) {
    const std::shared_ptr<Blob> blob = AddBlob(0);
    for (uint32_t i = 0; i < kChunksPerBlob; ++i) blob->presence().Set(ChunkIndex(i));
    const Instant started = clock_.Now();
    for (uint32_t done = 0; done < count; ++done) {
      Read(*blob, done * 1021 % kChunksPerBlob);
      loop_.RunAll();
    }
    return PerSecond(count, started);
  }

  // Nanoseconds.
  double Settle(uint32_t blobs_waiting) {
    constexpr uint32_t kSettled = 2000;
    const uint32_t reads_each = 2 * kSettled / blobs_waiting + 4;
    for (uint32_t i = 0; i < blobs_waiting; ++i) {
      const std::shared_ptr<Blob> blob = AddBlob(i);
      // No two of them in one run.
      for (uint32_t k = 0; k < reads_each; ++k) Read(*blob, 2 * k % kChunksPerBlob);
    }
    loop_.RunAll();
    const Instant started = clock_.Now();
    for (uint32_t i = 0; i < kSettled; ++i) {
      if (!source_.AnswerOne()) std::abort();
      loop_.RunAll();
    }
    const auto took = std::chrono::duration<double, std::nano>(clock_.Now() - started);
    if (answered_ < kSettled) std::abort();
    return took.count() / kSettled;
  }

 private:
  double PerSecond(uint32_t count, Instant started) const {
    if (answered_ != count) std::abort();
    return count / std::chrono::duration<double>(clock_.Now() - started).count();
  }

  RealClock clock_;
  Loop loop_;
  Store store_;
  Verifier verifier_;
  Source source_;
#ifndef SLUICE_BENCH_BEFORE
  FixedSources sources_{{{SourceRank::kOrigin, &source_}}};
#endif
  Telemetry telemetry_;
  uint32_t answered_ = 0;
  std::unique_ptr<BlobCache> cache_;
};

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  const std::string what = argc == 3 ? argv[1] : "";
  const uint32_t count = argc == 3 ? static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)) : 0;
  if (count == 0 || (what != "misses" && what != "hits" && what != "settle")) {
    std::fprintf(stderr, "usage: core_loop misses|hits|settle COUNT\n");
    return 2;
  }
  sluice::Bench bench;
  const double figure = what == "misses" ? bench.Misses(count)
                        : what == "hits" ? bench.Hits(count)
                                         : bench.Settle(count);
  std::printf("%.1f\n", figure);
}
