#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "node/blob.h"
#include "node/bulk_lane.h"
#include "node/chunk_source.h"
#include "node/chunk_store.h"
#include "node/chunk_verifier.h"
#include "node/executor.h"

// Fakes of the core's ports. Nothing here has a thread: a test says when tasks run and when time passes.
namespace sluice::fakes {

class FakeClock final : public Clock {
 public:
  Instant Now() const override { return now; }
  Instant now{std::chrono::hours(1)};
};

// Runs tasks when the test says so, in order of posting.
class ManualExecutor final : public Executor {
 public:
  explicit ManualExecutor(FakeClock& clock) : clock_(clock) {}

  void Post(Task task) override { tasks_.push_back(std::move(task)); }
  void PostAt(Instant when, Task task) override { timers_.emplace(when, std::move(task)); }

  // Runs until nothing is due. Returns how many tasks ran.
  int Run() {
    int count = 0;
    for (;;) {
      while (!timers_.empty() && timers_.begin()->first <= clock_.Now()) {
        tasks_.push_back(std::move(timers_.begin()->second));
        timers_.erase(timers_.begin());
      }
      if (tasks_.empty()) return count;
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      std::move(task)();
      ++count;
    }
  }
  size_t timer_count() const { return timers_.size(); }

 private:
  FakeClock& clock_;
  std::deque<Task> tasks_;
  std::multimap<Instant, Task> timers_;
};

// A store in memory with the contract of the real one.
class MemoryStore final : public ChunkStore {
 public:
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override {
    if (absl::Status valid = ChunkGeometry::Validate(spec.size, spec.chunk_size); !valid.ok()) return valid;
    auto& blob = blobs[spec.digest];
    if (!blob) blob = std::make_shared<Blob>(spec);
    if (blob->facts()->size != spec.size || blob->facts()->chunk_size != spec.chunk_size)
      return absl::InvalidArgumentError("known with another size or chunk size");
    return blob;
  }
  std::shared_ptr<Blob> Find(const BlobKey& key) const override {
    const auto found = blobs.find(key);
    return found == blobs.end() ? nullptr : found->second;
  }
  absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const override {
    const std::shared_ptr<Blob> blob = Find(key);
    if (!blob) return absl::NotFoundError("not in the store");
    if (blob->refused()) return absl::DataLossError("refused");
    return Blob::Lease(blob);
  }
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes,
                      Evidence evidence) override {
    if (index.value() >= blob.geometry().chunk_count() ||
        bytes.size() != blob.geometry().RangeOf(index).length)
      return absl::InvalidArgumentError("no such chunk, or not its length");
    if (blob.refused()) return absl::DataLossError("refused");
    if (Find(blob.digest()).get() != &blob) return absl::NotFoundError("evicted meanwhile");
    if (!commit_errors.empty()) {
      const absl::Status error = commit_errors.front();
      commit_errors.pop_front();
      return error;
    }
    if (!commit_error.ok()) return commit_error;
    Chunk& chunk = chunks[{&blob, index}];
    const bool present = blob.presence().IsPresent(index);
    // The same bytes under better evidence change nothing but that; other bytes take the place of what was
    // not proven.
    if (present && (evidence == Evidence::kUnverified || chunk.evidence == Evidence::kVerified))
      return absl::OkStatus();
    if (present) --blob.unverified_count();
    if (evidence == Evidence::kUnverified) ++blob.unverified_count();
    chunk = {{bytes.begin(), bytes.end()}, evidence};
    ++commits;
    blob.presence().Set(index);
    return absl::OkStatus();
  }
  absl::Status Revoke(Blob& blob, ChunkIndex index) override {
    const auto chunk = chunks.find({&blob, index});
    if (chunk != chunks.end() && blob.presence().Clear(index)) {
      if (chunk->second.evidence == Evidence::kUnverified) --blob.unverified_count();
      chunks.erase(chunk);
    }
    return absl::OkStatus();
  }
  absl::Status Evict(const Digest& digest) {
    const std::shared_ptr<Blob> blob = Find(digest);
    if (!blob) return absl::NotFoundError("not in the store");
    if (blob->lease_count() > 0) return absl::FailedPreconditionError("leased");
    std::erase_if(chunks, [&](const auto& chunk) { return chunk.first.first == blob.get(); });
    blob->presence().ClearAll();
    blobs.erase(digest);
    return absl::OkStatus();
  }

  struct Chunk {
    std::vector<std::byte> bytes;
    Evidence evidence = Evidence::kUnverified;
  };
  std::map<BlobKey, std::shared_ptr<Blob>> blobs;
  std::map<std::pair<const Blob*, ChunkIndex>, Chunk> chunks;
  absl::Status commit_error;               // of every commit
  std::deque<absl::Status> commit_errors;  // of the next ones, each once; OK is none
  int commits = 0;
};

// Finds bad what the test has marked: a chunk fails as often as its count says.
class FakeVerifier final : public ChunkVerifier {
 public:
  absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex index, std::span<const std::byte>) override {
    const auto found = bad.find(index);
    if (found == bad.end() || found->second == 0) return Evidence::kVerified;
    --found->second;
    return absl::DataLossError("chunk does not match its recipe");
  }
  std::map<ChunkIndex, int> bad;
};

// Holds every fetch until the test answers it.
class FakeSource final : public ChunkSource {
 public:
  // What the cache did with the fetch's handle.
  class Control final : public FetchControl {
   public:
    void Raise(FetchClass fetch_class) override { raised = fetch_class; }
    void Cancel() override { cancelled = true; }
    std::optional<FetchClass> raised;
    bool cancelled = false;
  };
  struct Call {
    FetchRequest request;
    OnChunk on_chunk;
    OnDone on_done;
    std::shared_ptr<Control> control;

    void Send(ChunkIndex index) {
      SendBytes(index, static_cast<int>(index.value() % 251) + 1,
                request.blob->geometry().RangeOf(index).length);
    }
    void SendBytes(ChunkIndex index, int value, uint64_t length) {
      Buffer buffer(length);
      std::memset(buffer.data(), value, buffer.size());
      request.progress->Add(length);
      on_chunk(index, std::move(buffer), SenderId{7});
    }
    void SendAll() {
      for (ChunkIndex index = request.chunks.first; index < request.chunks.end(); index = index.next())
        Send(index);
      std::move(on_done)(absl::OkStatus());
    }
    void Fail(absl::Status status) { std::move(on_done)(std::move(status)); }
  };

  explicit FakeSource(SourceKind kind = SourceKind::kOrigin) : kind_(kind) {}
  SourceKind kind() const override { return kind_; }
  FetchHandle Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    auto control = std::make_shared<Control>();
    calls.push_back({std::move(request), std::move(on_chunk), std::move(on_done), control});
    return FetchHandle(control);
  }

  void Judge(SenderId sender, const Blob&, ChunkIndex index, Verdict verdict) override {
    (verdict == Verdict::kWrong ? blamed : praised).push_back({sender, index});
  }

  void NoteOutrun(bool stalled) override {
    ++outrun;
    if (stalled) ++outrun_stalled;
  }

  // The oldest fetch that has not been taken.
  Call Take() {
    Call call = std::move(calls.front());
    calls.pop_front();
    return call;
  }
  std::deque<Call> calls;
  std::vector<std::pair<SenderId, ChunkIndex>> blamed, praised;
  int outrun = 0;          // times
  int outrun_stalled = 0;  // of those

 private:
  const SourceKind kind_;
};

// Carries what the test says.
class FakeBulkLane final : public BulkLane {
 public:
  void Join(const std::shared_ptr<Blob>&) override { ++joined; }
  void Leave(const Blob&) override { ++left; }
  bool Carries(const Blob&, ChunkIndex index) override { return carried.contains(index); }
  void Committed(const std::shared_ptr<Blob>&, ChunkIndex index) override { committed.insert(index); }

  std::set<ChunkIndex> carried;
  std::multiset<ChunkIndex> committed;
  int joined = 0;
  int left = 0;
};

}  // namespace sluice::fakes
