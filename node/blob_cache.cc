#include "node/blob_cache.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

// The last source is asked for a chunk this often before those who wait for it are told that it can't be had.
constexpr int kAttemptsMax = 2;
// Readers whom a source tells that it is not there just now wait so long for the next try, while they have
// time: twice as long each time, up to the second figure.
constexpr Duration kPauseMin = std::chrono::milliseconds(500);
constexpr Duration kPauseMax = std::chrono::seconds(2);
// One step of a fill, and how many are under way at once.
constexpr uint64_t kFillStepBytes = 4 << 20;
constexpr int kFillStepsMax = 2;
// How often a fill looks again at what it left to the bulk lane.
constexpr Duration kBulkLookInterval = std::chrono::milliseconds(200);

struct PendingRead {
  std::shared_ptr<Blob> blob;
  ByteRange range;
  FetchClass fetch_class;
  Instant started;
  Instant deadline;
  uint32_t outstanding = 0;  // chunks still to come
  SourceKind farthest = SourceKind::kLocal;
  ReadDone done;
};

struct ActiveFetch {
  PendingFetch fetch;
  uint64_t bytes_left = 0;  // counted as under way in the queue
  uint32_t settled = 0;     // delivered chunks that were committed or refused
  // Set when the source is done; the fetch ends once `settled` has reached `delivered`.
  std::optional<absl::Status> status;
  uint32_t delivered = 0;
};

enum class Failure {
  kForGood,   // or for as long as anybody would wait
  kOfSource,  // that is not there just now
};

struct FillState {
  Blob::Lease lease;
  FetchClass fetch_class;
  uint64_t run;               // tells it from a later fill of the blob
  ChunkIndex next{};          // the first chunk that this round has not looked at
  bool left_to_bulk = false;  // some of this round's chunks
  int steps = 0;              // under way
  absl::Status status{};
  std::vector<FillDone> dones{};
};

// Adds the chunk to the last run if it follows it.
void Append(std::vector<ChunkSpan>& runs, ChunkIndex index) {
  if (!runs.empty() && runs.back().end() == index) {
    ++runs.back().count;
  } else {
    runs.push_back({index, 1});
  }
}

std::string Describe(const Blob& blob, ChunkIndex index) {
  return absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString());
}

}  // namespace

class BlobCache::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Parts parts, BlobCacheLimits limits)
      : parts_(std::move(parts)),
        limits_(limits),
        queue_({{limits.fetches_max[0], limits.fetches_max[1], limits.fetches_max[2], limits.fetches_max[3]},
                limits.inflight_bytes_max,
                limits.queue_max}),
        amplifier_(limits.readahead_bytes_max) {}

  void Read(ReadRequest request, ReadDone done);
  void StartFill(const Digest& digest, FetchClass fetch_class, FillDone done);
  void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence, SourceKind kind,
             ChunkSink::OnDone on_done);
  void StopFill(const Digest& digest) { EndStep(digest, absl::CancelledError("the fill was stopped"), 0); }
  void Shutdown();

  Executor& loop() { return parts_.core; }

 private:
  // --- Reads.
  absl::StatusOr<std::shared_ptr<Blob>> Check(const ReadRequest& request) const;
  void Wait(ReadRequest request, std::shared_ptr<Blob> blob, ReadDone done);
  void Complete(ReadId id, absl::Status status);
  void Answer(PendingRead read, absl::Status status);
  void ArmDeadline();
  void ExpireReads();

  // --- Chunks: single flight.
  void Join(ReadId id, PendingRead& read, ChunkIndex index, std::vector<ChunkSpan>& to_open);
  void OpenAhead(const std::shared_ptr<Blob>& blob, ChunkSpan span);
  void Settle(FetchId id, ChunkIndex index, absl::StatusOr<Evidence> outcome);
  void CloseArrived(const std::shared_ptr<Blob>& blob, ChunkIndex index, Evidence evidence, SourceKind kind);
  void EndOffer(const std::shared_ptr<Blob>& blob, ChunkIndex index, absl::StatusOr<Evidence> outcome,
                SourceKind kind, ChunkSink::OnDone on_done);
  absl::StatusOr<Evidence> Store(Blob& blob, ChunkIndex index, const Buffer& bytes, Evidence evidence,
                                 SourceKind kind);
  void FailChunks(const PendingFetch& fetch, const std::vector<ChunkIndex>& chunks,
                  const absl::Status& status, Failure failure);
  Instant DemandDeadline(const FetchTable::Entry& entry) const;
  void TryAgainLater(const std::shared_ptr<Blob>& blob, std::vector<ChunkIndex> chunks);
  void TryAgain(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks, FetchId pause);

  // --- Fetches.
  void Enqueue(const std::shared_ptr<Blob>& blob, const std::vector<ChunkSpan>& spans, FetchClass fetch_class,
               Instant deadline, size_t source);
  void StartFetches();
  ChunkSpan OwnedRun(const PendingFetch& fetch);
  void StartFetch(PendingFetch fetch);
  void Deliver(FetchId id, const std::shared_ptr<Blob>& blob, ChunkSource& source, ChunkIndex index,
               Buffer buffer, SenderId sender);
  void SourceDone(FetchId id, uint32_t delivered, absl::Status status);
  void EndIfOver(FetchId id);

  // --- Fills.
  void StepFill(const Digest& digest);
  ChunkSpan NextFillRun(FillState& fill);
  void LookAgainLater(const Digest& digest, FillState& fill);
  void EndStep(const Digest& digest, absl::Status status, int steps_ended);

  Instant Now() const { return parts_.clock.Now(); }

  // Constant after construction.
  const Parts parts_;
  const BlobCacheLimits limits_;

  std::atomic<uint64_t> offered_bytes_{0};  // and not done yet

  // Owned by the core loop.
  bool shut_down_ = false;
  uint64_t next_id_ = 1;
  FetchTable table_;
  FetchQueue queue_;
  Amplifier amplifier_;
  absl::flat_hash_map<ReadId, PendingRead> reads_;
  std::set<std::pair<Instant, ReadId>> deadlines_;
  std::optional<Instant> armed_;
  absl::flat_hash_map<FetchId, ActiveFetch> active_;
  absl::flat_hash_map<Digest, FillState> fills_;
};

// ---------------------------------------------------------------------------------------------- reads

absl::StatusOr<std::shared_ptr<Blob>> BlobCache::Core::Check(const ReadRequest& request) const {
  std::shared_ptr<Blob> blob = parts_.store.Find(request.digest);
  if (!blob) {
    return absl::NotFoundError(
        absl::StrCat("blob ", request.digest.ToString(), " is not registered on this node"));
  }
  if (blob->refused()) {
    return absl::DataLossError(
        absl::StrCat("blob ", request.digest.ToString(),
                     " is refused: its bytes do not match its digest; evict it to fetch it anew"));
  }
  const uint64_t size = blob->geometry().size();
  if (request.range.length == 0 || request.range.offset >= size ||
      request.range.length > size - request.range.offset) {
    return absl::OutOfRangeError(absl::StrCat("bytes ", request.range.offset, "+", request.range.length,
                                              " are not within blob ", request.digest.ToString(), " of ",
                                              size, " bytes"));
  }
  if (shut_down_) return absl::CancelledError("the node is shutting down");
  if (request.deadline <= Now()) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the deadline of a read of blob ", request.digest.ToString(), " had passed before it began"));
  }
  return blob;
}

void BlobCache::Core::Read(ReadRequest request, ReadDone done) {
  absl::StatusOr<std::shared_ptr<Blob>> blob = Check(request);
  if (!blob.ok()) {
    if (request.fetch_class == FetchClass::kDemand) parts_.telemetry.read_errors.Add();
    return std::move(done)(blob.status());
  }
  Wait(std::move(request), *std::move(blob), std::move(done));
}

void BlobCache::Core::Wait(ReadRequest request, std::shared_ptr<Blob> blob, ReadDone done) {
  const ChunkSpan span = blob->geometry().Covering(request.range);
  PendingRead read{blob, request.range,      request.fetch_class, Now(), request.deadline,
                   0,    SourceKind::kLocal, std::move(done)};
  if (!blob->presence().AllPresent(span) && reads_.size() >= limits_.reads_waiting_max) {
    return Answer(std::move(read), absl::ResourceExhaustedError(absl::StrCat(
                                       limits_.reads_waiting_max, " reads are waiting, no more are taken")));
  }
  const ReadId id = next_id_++;
  std::vector<ChunkSpan> to_open;
  for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
    if (!blob->presence().IsPresent(index)) Join(id, read, index, to_open);
  }
  if (read.outstanding == 0) {
    Answer(std::move(read), absl::OkStatus());
  } else {
    deadlines_.emplace(read.deadline, id);
    reads_.emplace(id, std::move(read));
    parts_.telemetry.reads_waiting.Set(static_cast<int64_t>(reads_.size()));
    ArmDeadline();
    Enqueue(blob, to_open, request.fetch_class, request.deadline, 0);
  }
  if (request.fetch_class == FetchClass::kDemand) OpenAhead(blob, amplifier_.Advance(*blob, span));
  StartFetches();
}

void BlobCache::Core::Complete(ReadId id, absl::Status status) {
  auto found = reads_.find(id);
  if (found == reads_.end()) return;  // it expired or failed with another of its chunks
  PendingRead read = std::move(found->second);
  reads_.erase(found);
  deadlines_.erase({read.deadline, id});
  parts_.telemetry.reads_waiting.Set(static_cast<int64_t>(reads_.size()));
  Answer(std::move(read), std::move(status));
}

void BlobCache::Core::Answer(PendingRead read, absl::Status status) {
  const bool demand = read.fetch_class == FetchClass::kDemand;
  if (status.ok() && read.blob->refused()) {
    status = absl::DataLossError(
        absl::StrCat("blob ", read.blob->digest().ToString(), " was refused during the read"));
  }
  if (!status.ok()) {
    if (demand) parts_.telemetry.read_errors.Add();
    return std::move(read.done)(std::move(status));
  }
  if (demand) {
    const int source = static_cast<int>(read.farthest);
    parts_.telemetry.reads[source].Add();
    parts_.telemetry.read_bytes[source].Add(read.range.length);
    parts_.telemetry.read_duration[source].Observe(Now() - read.started);
  }
  std::move(read.done)(ReadResult{read.farthest});
}

void BlobCache::Core::ArmDeadline() {
  if (deadlines_.empty()) return;
  const Instant earliest = deadlines_.begin()->first;
  if (armed_ && *armed_ <= earliest) return;
  armed_ = earliest;
  parts_.core.PostAt(earliest, [weak = weak_from_this(), earliest] {
    auto core = weak.lock();
    // Another timer has been armed for an earlier deadline since: it arms the next.
    if (core && core->armed_ == earliest) core->ExpireReads();
  });
}

void BlobCache::Core::ExpireReads() {
  armed_.reset();
  while (!deadlines_.empty() && deadlines_.begin()->first <= Now()) {
    const ReadId id = deadlines_.begin()->second;
    const PendingRead& read = reads_.at(id);
    Complete(id, absl::DeadlineExceededError(absl::StrCat("bytes ", read.range.offset, "+", read.range.length,
                                                          " of blob ", read.blob->digest().ToString(),
                                                          " did not arrive by the deadline (",
                                                          read.outstanding, " chunks missing)")));
  }
  ArmDeadline();
}

// --------------------------------------------------------------------------------------------- chunks

void BlobCache::Core::Join(ReadId id, PendingRead& read, ChunkIndex index, std::vector<ChunkSpan>& to_open) {
  FetchTable::Entry* entry = table_.Find(*read.blob, index);
  // What waits in a lower class's queue is taken out of it and asked for in the reader's own class.
  const bool promote = entry && !entry->started && read.fetch_class < entry->fetch_class;
  if (promote) {
    entry->fetch_class = read.fetch_class;
    entry->owner = 0;
  }
  if (!entry) entry = &table_.Open(read.blob, index, 0, read.fetch_class);
  if (entry->owner == 0) Append(to_open, index);
  entry->waiters.push_back(id);
  ++read.outstanding;
}

void BlobCache::Core::OpenAhead(const std::shared_ptr<Blob>& blob, ChunkSpan span) {
  std::vector<ChunkSpan> runs;
  for (ChunkIndex index = span.first; index < span.end(); index = index.next()) {
    if (blob->presence().IsPresent(index) || table_.Find(*blob, index)) continue;
    table_.Open(blob, index, 0, FetchClass::kReadahead);
    Append(runs, index);
  }
  Enqueue(blob, runs, FetchClass::kReadahead, Now() + limits_.fetch_timeout, 0);
}

void BlobCache::Core::Settle(FetchId id, ChunkIndex index, absl::StatusOr<Evidence> outcome) {
  auto found = active_.find(id);
  if (found == active_.end()) return;  // shut down
  ActiveFetch& active = found->second;
  const uint64_t length = active.fetch.blob->geometry().RangeOf(index).length;
  ++active.settled;
  active.bytes_left -= length;
  queue_.Arrived(length);
  if (outcome.ok() && parts_.bulk) parts_.bulk->Committed(active.fetch.blob, index);
  if (table_.Find(*active.fetch.blob, index)) {
    if (outcome.ok()) {
      if (active.fetch.fetch_class != FetchClass::kDemand) parts_.telemetry.prefetch_bytes.Add(length);
      CloseArrived(active.fetch.blob, index, *outcome, parts_.sources[active.fetch.source]->kind());
    } else {
      FailChunks(active.fetch, {index}, outcome.status(), Failure::kForGood);
    }
  }
  EndIfOver(id);
  StartFetches();
}

void BlobCache::Core::CloseArrived(const std::shared_ptr<Blob>& blob, ChunkIndex index, Evidence evidence,
                                   SourceKind kind) {
  const FetchTable::Entry entry = table_.Close(*blob, index);
  if (evidence == Evidence::kUnverified && !entry.waiters.empty())
    parts_.telemetry.unverified_served_bytes.Add(blob->geometry().RangeOf(index).length);
  for (ReadId id : entry.waiters) {
    auto read = reads_.find(id);
    if (read == reads_.end()) continue;
    read->second.farthest = std::max(read->second.farthest, kind);
    if (--read->second.outstanding == 0) Complete(id, absl::OkStatus());
  }
}

void BlobCache::Core::FailChunks(const PendingFetch& fetch, const std::vector<ChunkIndex>& chunks,
                                 const absl::Status& status, Failure failure) {
  std::vector<ChunkSpan> again;
  std::vector<ChunkIndex> later;
  const bool last_source = fetch.source + 1 >= parts_.sources.size();
  const bool may_pass = failure == Failure::kOfSource && !shut_down_ && !fetch.blob->refused();
  Instant deadline = Now();
  FetchClass fetch_class = FetchClass::kBackfill;
  std::vector<ReadId> failed;
  for (ChunkIndex index : chunks) {
    FetchTable::Entry* entry = table_.Find(*fetch.blob, index);
    std::erase_if(entry->waiters, [&](ReadId id) { return !reads_.contains(id); });
    // A fetch that ended with its first reader's deadline does not count against readers who have time left.
    // Nor does one of a source that has another behind it.
    if (last_source && (!absl::IsDeadlineExceeded(status) || fetch.deadline > Now())) ++entry->attempts;
    if (may_pass && entry->attempts >= kAttemptsMax && DemandDeadline(*entry) > Now() + kPauseMin) {
      later.push_back(index);
      continue;
    }
    if (entry->waiters.empty() || entry->attempts >= kAttemptsMax || shut_down_) {
      FetchTable::Entry closed = table_.Close(*fetch.blob, index);
      failed.insert(failed.end(), closed.waiters.begin(), closed.waiters.end());
      continue;
    }
    entry->owner = 0;
    entry->started = false;
    for (ReadId id : entry->waiters) {
      deadline = std::max(deadline, reads_.at(id).deadline);
      fetch_class = std::min(fetch_class, reads_.at(id).fetch_class);
    }
    Append(again, index);
  }
  Enqueue(fetch.blob, again, fetch_class, deadline, last_source ? fetch.source : fetch.source + 1);
  if (!later.empty()) TryAgainLater(fetch.blob, std::move(later));
  for (ReadId id : failed) Complete(id, status);
}

// The latest deadline of the demand reads that wait for the chunk; now if there are none.
Instant BlobCache::Core::DemandDeadline(const FetchTable::Entry& entry) const {
  Instant latest = Now();
  for (ReadId id : entry.waiters) {
    const PendingRead& read = reads_.at(id);
    if (read.fetch_class == FetchClass::kDemand) latest = std::max(latest, read.deadline);
  }
  return latest;
}

// Until then the chunks belong to the pause, as they would to a fetch, but take no place among those under
// way.
void BlobCache::Core::TryAgainLater(const std::shared_ptr<Blob>& blob, std::vector<ChunkIndex> chunks) {
  const FetchId pause = next_id_++;
  Duration length = kPauseMin;
  Instant latest = Now();
  for (ChunkIndex index : chunks) {
    FetchTable::Entry* entry = table_.Find(*blob, index);
    entry->owner = pause;
    entry->started = false;
    entry->attempts = 0;
    entry->fetch_class = FetchClass::kDemand;
    length = std::max(length, std::min(kPauseMax, kPauseMin * (1 << std::min(entry->pauses++, 8))));
    latest = std::max(latest, DemandDeadline(*entry));
  }
  // The last try is to come before the deadline.
  length = std::max(kPauseMin, std::min(length, latest - Now() - kPauseMin));
  parts_.core.PostAt(Now() + length, [weak = weak_from_this(), blob, chunks = std::move(chunks), pause] {
    if (auto core = weak.lock()) core->TryAgain(blob, chunks, pause);
  });
}

void BlobCache::Core::TryAgain(const std::shared_ptr<Blob>& blob, const std::vector<ChunkIndex>& chunks,
                               FetchId pause) {
  std::vector<ChunkSpan> again;
  Instant deadline = Now();
  for (ChunkIndex index : chunks) {
    FetchTable::Entry* entry = table_.Find(*blob, index);
    if (!entry || entry->owner != pause) continue;
    std::erase_if(entry->waiters, [&](ReadId id) { return !reads_.contains(id); });
    if (entry->waiters.empty()) {
      table_.Close(*blob, index);
      continue;
    }
    for (ReadId id : entry->waiters) deadline = std::max(deadline, reads_.at(id).deadline);
    Append(again, index);
  }
  Enqueue(blob, again, FetchClass::kDemand, deadline, 0);
  StartFetches();
}

// -------------------------------------------------------------------------------------------- fetches

void BlobCache::Core::Enqueue(const std::shared_ptr<Blob>& blob, const std::vector<ChunkSpan>& spans,
                              FetchClass fetch_class, Instant deadline, size_t source) {
  const uint32_t count_max = std::max(1u, limits_.fetch_bytes_max / blob->geometry().chunk_size());
  for (ChunkSpan span : spans) {
    while (span.count > 0) {
      const ChunkSpan part{span.first, std::min(span.count, count_max)};
      span = {part.end(), span.count - part.count};
      PendingFetch fetch{next_id_++, blob, part, fetch_class, deadline, source};
      std::vector<ChunkIndex> chunks;
      for (ChunkIndex index = part.first; index < part.end(); index = index.next()) {
        FetchTable::Entry* entry = table_.Find(*blob, index);
        entry->owner = fetch.id;
        entry->fetch_class = fetch_class;
        chunks.push_back(index);
      }
      const absl::Status pushed = queue_.Push(fetch);
      if (pushed.ok()) continue;
      for (ChunkIndex index : chunks) {
        for (ReadId id : table_.Close(*blob, index).waiters) Complete(id, pushed);
      }
    }
  }
}

void BlobCache::Core::StartFetches() {
  for (PendingFetch fetch = queue_.Pop(); fetch.chunks.count > 0; fetch = queue_.Pop())
    StartFetch(std::move(fetch));
}

ChunkSpan BlobCache::Core::OwnedRun(const PendingFetch& fetch) {
  const auto owned = [&](ChunkIndex index) {
    const FetchTable::Entry* entry = table_.Find(*fetch.blob, index);
    return entry && entry->owner == fetch.id;
  };
  ChunkSpan run{fetch.chunks.first, 0};
  while (run.first < fetch.chunks.end() && !owned(run.first)) run.first = run.first.next();
  while (run.end() < fetch.chunks.end() && owned(run.end())) ++run.count;
  return run;
}

void BlobCache::Core::StartFetch(PendingFetch fetch) {
  // Chunks that a reader has since asked for in a higher class have left this fetch.
  const ChunkSpan asked = fetch.chunks;
  const ChunkSpan run = OwnedRun(fetch);
  const ChunkGeometry& geometry = fetch.blob->geometry();
  const uint64_t length = run.count ? geometry.RangeOf(run).length : 0;
  queue_.Arrived(geometry.RangeOf(asked).length - length);
  if (run.count == 0) return queue_.Finished(fetch);
  if (run.end() < asked.end()) {
    PendingFetch rest = fetch;
    rest.chunks = {run.end(), asked.end().value() - run.end().value()};
    rest.id = next_id_++;
    std::vector<ChunkSpan> spans;
    for (ChunkIndex index = rest.chunks.first; index < rest.chunks.end(); index = index.next()) {
      FetchTable::Entry* entry = table_.Find(*fetch.blob, index);
      if (entry && entry->owner == fetch.id) Append(spans, index);
    }
    Enqueue(fetch.blob, spans, fetch.fetch_class, fetch.deadline, fetch.source);
  }
  fetch.chunks = run;
  for (ChunkIndex index = run.first; index < run.end(); index = index.next()) {
    table_.Find(*fetch.blob, index)->started = true;
  }
  const FetchId id = fetch.id;
  if (parts_.sources.empty()) {
    active_.emplace(id, ActiveFetch{std::move(fetch), length, 0, std::nullopt, 0});
    return SourceDone(id, 0, absl::UnavailableError("no source is configured to fetch from"));
  }
  ChunkSource& source = *parts_.sources[fetch.source];
  FetchRequest request{fetch.blob, run, fetch.fetch_class, fetch.deadline};
  active_.emplace(id, ActiveFetch{std::move(fetch), length, 0, std::nullopt, 0});

  auto delivered = std::make_shared<std::atomic<uint32_t>>(0);
  std::shared_ptr<Blob> blob = request.blob;
  source.Fetch(
      std::move(request),
      [weak = weak_from_this(), delivered, blob, id, &source](ChunkIndex index, Buffer buffer,
                                                              SenderId sender) {
        auto core = weak.lock();
        if (!core) return;
        delivered->fetch_add(1);
        core->Deliver(id, blob, source, index, std::move(buffer), sender);
      },
      [weak = weak_from_this(), delivered, id](absl::Status status) {
        auto core = weak.lock();
        if (!core) return;
        core->loop().Post([core, id, count = delivered->load(), status = std::move(status)]() mutable {
          core->SourceDone(id, count, std::move(status));
        });
      });
}

// Runs on the source's thread: hashing and writing go to the pool, the verdict to the core loop.
void BlobCache::Core::Deliver(FetchId id, const std::shared_ptr<Blob>& blob, ChunkSource& source,
                              ChunkIndex index, Buffer buffer, SenderId sender) {
  parts_.io.Post(
      [core = shared_from_this(), id, blob, &source, index, buffer = std::move(buffer), sender]() mutable {
        absl::StatusOr<Evidence> outcome =
            core->Store(*blob, index, buffer, Evidence::kUnverified, source.kind());
        if (outcome.ok() && *outcome == Evidence::kVerified)
          source.Judge(sender, *blob, index, ChunkSource::Verdict::kRight);
        if (absl::IsDataLoss(outcome.status()) && !blob->refused())
          source.Judge(sender, *blob, index, ChunkSource::Verdict::kWrong);
        core->loop().Post([core, id, index, outcome = std::move(outcome)]() mutable {
          core->Settle(id, index, std::move(outcome));
        });
      });
}

// Verifies, unless that was done, and commits. Runs on the pool.
absl::StatusOr<Evidence> BlobCache::Core::Store(Blob& blob, ChunkIndex index, const Buffer& bytes,
                                                Evidence evidence, SourceKind kind) {
  if (evidence == Evidence::kUnverified) {
    const absl::StatusOr<Evidence> verdict = parts_.verifier.Verify(blob, index, bytes.span());
    if (absl::IsDataLoss(verdict.status())) parts_.telemetry.verify_failures[static_cast<int>(kind)].Add();
    if (!verdict.ok()) return verdict;
    evidence = *verdict;
  }
  const absl::Status committed = parts_.store.Commit(blob, index, bytes.span(), evidence);
  if (!committed.ok()) return committed;
  return evidence;
}

void BlobCache::Core::Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence,
                            SourceKind kind, ChunkSink::OnDone on_done) {
  const uint64_t length = bytes.size();
  if (index.value() >= blob->geometry().chunk_count() || length != blob->geometry().RangeOf(index).length) {
    return EndOffer(
        blob, index,
        absl::InvalidArgumentError(absl::StrCat(Describe(*blob, index), " has not ", length, " bytes")), kind,
        std::move(on_done));
  }
  if (offered_bytes_.fetch_add(length) + length > limits_.offer_bytes_max && offered_bytes_ > length) {
    offered_bytes_ -= length;
    return EndOffer(blob, index,
                    absl::ResourceExhaustedError(absl::StrCat(
                        limits_.offer_bytes_max, " bytes of chunks are being stored, no more are taken")),
                    kind, std::move(on_done));
  }
  parts_.io.Post([core = shared_from_this(), blob, index, bytes = std::move(bytes), evidence, kind,
                  on_done = std::move(on_done)]() mutable {
    absl::StatusOr<Evidence> outcome = core->Store(*blob, index, bytes, evidence, kind);
    core->offered_bytes_ -= bytes.size();
    core->EndOffer(blob, index, std::move(outcome), kind, std::move(on_done));
  });
}

// From any thread.
void BlobCache::Core::EndOffer(const std::shared_ptr<Blob>& blob, ChunkIndex index,
                               absl::StatusOr<Evidence> outcome, SourceKind kind, ChunkSink::OnDone on_done) {
  loop().Post([core = shared_from_this(), blob, index, outcome = std::move(outcome), kind,
               on_done = std::move(on_done)]() mutable {
    // A chunk that was refused is still under way by the fetch that was there before.
    if (outcome.ok() && !core->shut_down_) {
      if (core->table_.Find(*blob, index)) core->CloseArrived(blob, index, *outcome, kind);
      if (core->parts_.bulk) core->parts_.bulk->Committed(blob, index);
    }
    std::move(on_done)(outcome.status());
  });
}

void BlobCache::Core::SourceDone(FetchId id, uint32_t delivered, absl::Status status) {
  auto found = active_.find(id);
  if (found == active_.end()) return;
  found->second.delivered = delivered;
  found->second.status = std::move(status);
  EndIfOver(id);
  StartFetches();
}

void BlobCache::Core::EndIfOver(FetchId id) {
  auto found = active_.find(id);
  if (!found->second.status || found->second.settled < found->second.delivered) return;
  ActiveFetch active = std::move(found->second);
  active_.erase(found);
  queue_.Arrived(active.bytes_left);
  queue_.Finished(active.fetch);

  std::vector<ChunkIndex> undelivered;
  for (ChunkIndex index = active.fetch.chunks.first; index < active.fetch.chunks.end();
       index = index.next()) {
    const FetchTable::Entry* entry = table_.Find(*active.fetch.blob, index);
    if (entry && entry->owner == id) undelivered.push_back(index);
  }
  if (undelivered.empty()) return;
  if (active.status->ok()) {
    active.status = absl::InternalError(absl::StrCat("the source said that it was done but did not deliver ",
                                                     Describe(*active.fetch.blob, undelivered.front())));
  }
  FailChunks(active.fetch, undelivered, *active.status,
             absl::IsUnavailable(*active.status) ? Failure::kOfSource : Failure::kForGood);
}

// ---------------------------------------------------------------------------------------------- fills

void BlobCache::Core::StartFill(const Digest& digest, FetchClass fetch_class, FillDone done) {
  const auto found = fills_.find(digest);
  if (found != fills_.end()) {
    found->second.fetch_class = std::min(found->second.fetch_class, fetch_class);
    found->second.dones.push_back(std::move(done));
    return;
  }
  std::shared_ptr<Blob> blob = parts_.store.Find(digest);
  if (!blob)
    return std::move(done)(
        absl::NotFoundError(absl::StrCat("blob ", digest.ToString(), " is not registered")));
  if (shut_down_) return std::move(done)(absl::CancelledError("the node is shutting down"));
  if (parts_.bulk) parts_.bulk->Join(blob);
  FillState& fill =
      fills_.emplace(digest, FillState{Blob::Lease(std::move(blob)), fetch_class, next_id_++}).first->second;
  fill.dones.push_back(std::move(done));
  StepFill(digest);
}

void BlobCache::Core::StepFill(const Digest& digest) {
  FillState& fill = fills_.at(digest);
  const ChunkGeometry& geometry = fill.lease.blob().geometry();
  while (fill.status.ok() && fill.steps < kFillStepsMax) {
    const ChunkSpan run = NextFillRun(fill);
    if (run.count == 0) break;
    ++fill.steps;
    parts_.core.Post(
        [core = shared_from_this(), digest, range = geometry.RangeOf(run), fetch_class = fill.fetch_class] {
          ReadRequest request{digest, range, fetch_class, core->Now() + core->limits_.fetch_timeout};
          core->Read(request, [core, digest](absl::StatusOr<ReadResult> result) {
            core->EndStep(digest, result.status(), 1);
          });
        });
  }
  if (fill.steps > 0) return;
  if (fill.status.ok() && fill.left_to_bulk) return LookAgainLater(digest, fill);
  FillState ended = std::move(fill);
  fills_.erase(digest);
  if (parts_.bulk) parts_.bulk->Leave(ended.lease.blob());
  for (FillDone& done : ended.dones) std::move(done)(ended.status);
}

// The next chunks that the fill itself has to ask for; count is 0 at the end of the round.
ChunkSpan BlobCache::Core::NextFillRun(FillState& fill) {
  const Blob& blob = fill.lease.blob();
  const ChunkGeometry& geometry = blob.geometry();
  const auto count_max = static_cast<uint32_t>(std::max<uint64_t>(1, kFillStepBytes / geometry.chunk_size()));
  ChunkSpan run{fill.next, 0};
  while (fill.next.value() < geometry.chunk_count() && run.count < count_max) {
    const ChunkIndex index = fill.next;
    const bool absent = !blob.presence().IsPresent(index);
    const bool carried = absent && parts_.bulk && parts_.bulk->Carries(blob, index);
    fill.left_to_bulk = fill.left_to_bulk || carried;
    if (absent && !carried) {
      if (run.count == 0) run.first = index;
      ++run.count;
    } else if (run.count > 0) {
      return run;
    }
    fill.next = index.next();
  }
  return run;
}

void BlobCache::Core::LookAgainLater(const Digest& digest, FillState& fill) {
  fill.next = ChunkIndex(0);
  fill.left_to_bulk = false;
  parts_.core.PostAt(Now() + kBulkLookInterval, [weak = weak_from_this(), digest, run = fill.run] {
    const auto core = weak.lock();
    if (!core) return;
    const auto found = core->fills_.find(digest);
    if (found != core->fills_.end() && found->second.run == run) core->StepFill(digest);
  });
}

void BlobCache::Core::EndStep(const Digest& digest, absl::Status status, int steps_ended) {
  const auto found = fills_.find(digest);
  if (found == fills_.end()) return;
  found->second.steps -= steps_ended;
  if (found->second.status.ok()) found->second.status = std::move(status);
  StepFill(digest);
}

void BlobCache::Core::Shutdown() {
  shut_down_ = true;
  const absl::Status cancelled = absl::CancelledError("the node is shutting down");
  for (auto& [digest, fill] : std::exchange(fills_, {})) {
    if (parts_.bulk) parts_.bulk->Leave(fill.lease.blob());
    for (FillDone& done : fill.dones) std::move(done)(cancelled);
  }
  while (!reads_.empty()) Complete(reads_.begin()->first, cancelled);
  active_.clear();
}

// --------------------------------------------------------------------------------------------- facade

BlobCache::BlobCache(Parts parts, BlobCacheLimits limits)
    : core_(std::make_shared<Core>(std::move(parts), limits)) {}

BlobCache::~BlobCache() {
  core_->Shutdown();
}

void BlobCache::Read(ReadRequest request, ReadDone done) {
  core_->loop().Post([core = core_, request, done = std::move(done)]() mutable {
    core->Read(std::move(request), std::move(done));
  });
}

void BlobCache::Fill(const Digest& digest, FetchClass fetch_class, FillDone done) {
  core_->loop().Post([core = core_, digest, fetch_class, done = std::move(done)]() mutable {
    core->StartFill(digest, fetch_class, std::move(done));
  });
}

void BlobCache::Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence,
                      SourceKind kind, ChunkSink::OnDone on_done) {
  core_->Offer(std::move(blob), index, std::move(bytes), evidence, kind, std::move(on_done));
}

void BlobCache::StopFill(const Digest& digest) {
  core_->loop().Post([core = core_, digest] { core->StopFill(digest); });
}

}  // namespace sluice
