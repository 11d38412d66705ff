#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <memory>
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
    auto& blob = blobs[spec.digest];
    if (!blob) blob = std::make_shared<Blob>(spec);
    return blob;
  }
  std::shared_ptr<Blob> Find(const Digest& digest) const override {
    const auto found = blobs.find(digest);
    return found == blobs.end() ? nullptr : found->second;
  }
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte> bytes, Evidence) override {
    if (!commit_error.ok()) return commit_error;
    auto& chunk = chunks[{blob.digest(), index}];
    chunk.assign(bytes.begin(), bytes.end());
    ++commits;
    blob.presence().Set(index);
    return absl::OkStatus();
  }
  absl::Status Revoke(Blob& blob, ChunkIndex index) override {
    blob.presence().Clear(index);
    return absl::OkStatus();
  }

  std::map<Digest, std::shared_ptr<Blob>> blobs;
  std::map<std::pair<Digest, ChunkIndex>, std::vector<std::byte>> chunks;
  absl::Status commit_error;
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
  struct Call {
    FetchRequest request;
    OnChunk on_chunk;
    OnDone on_done;

    void Send(ChunkIndex index) {
      Buffer buffer(request.blob->geometry().RangeOf(index).length);
      std::memset(buffer.data(), static_cast<int>(index.value() % 251) + 1, buffer.size());
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
  void Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) override {
    calls.push_back({std::move(request), std::move(on_chunk), std::move(on_done)});
  }

  void Judge(SenderId sender, const Blob&, ChunkIndex index, Verdict verdict) override {
    (verdict == Verdict::kWrong ? blamed : praised).push_back({sender, index});
  }

  // The oldest fetch that has not been taken.
  Call Take() {
    Call call = std::move(calls.front());
    calls.pop_front();
    return call;
  }
  std::deque<Call> calls;
  std::vector<std::pair<SenderId, ChunkIndex>> blamed, praised;

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
