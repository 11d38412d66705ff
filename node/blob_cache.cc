#include "node/blob_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/chunk_intake.h"
#include "node/read_table.h"
#include "node/single_flight.h"

namespace sluice {
namespace {

absl::Status CheckRange(const Blob& blob, ByteRange range) {
  const uint64_t size = blob.geometry().size();
  if (range.length > 0 && range.offset < size && range.length <= size - range.offset) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("bytes ", range.offset, "+", range.length,
                                            " are not within blob ", blob.digest().ToString(), " of ", size,
                                            " bytes"));
}

// Of a read that began then and is answered now. What came before it began is no part of its wait, and what
// came without having been asked for is all of it wire.
ReadTimes TimesOf(const ChunkTimes& chunk, Instant began, Instant now) {
  if (chunk.asked == Instant()) return {.wire = now - began};
  const Instant asked = std::clamp(chunk.asked, began, now);
  const Instant came = std::clamp(chunk.came, asked, now);
  // Of a source that tells of no bytes it is known when all of them were here.
  const Instant first_byte = chunk.first_byte == Instant() ? came : std::clamp(chunk.first_byte, asked, came);
  const Instant verified = std::clamp(chunk.verified, came, now);
  return {.queued = asked - began,
          .answer = first_byte - asked,
          .wire = came - first_byte,
          .verified = verified - came,
          .stored = now - verified,
          .foreseen = chunk.asked < began && chunk.asked_as != FetchClass::kDemand};
}

absl::Status ShuttingDown() {
  return absl::CancelledError("the node is shutting down");
}

}  // namespace

class BlobCache::Core final : public std::enable_shared_from_this<Core>, private SingleFlight::Waiters {
 public:
  Core(const Parts& parts, const BlobCacheLimits& limits)
      : parts_(parts),
        limits_(limits),
        intake_(parts.verifier, parts.store, parts.telemetry),
        amplifier_({limits.readahead_mode, limits.readahead_bytes_max}, parts.telemetry),
        flight_({parts.clock, parts.core, parts.io, intake_, parts.sources, parts.telemetry, parts.bulk,
                 reads_, *this, parts.observers, limits.fetch_timeout, limits.first_byte_budget,
                 limits.fill_flows, parts.flows},
                {limits.fetches_max, limits.inflight_bytes_max, limits.fetch_bytes_max}),
        fills_({parts.clock, parts.core, flight_.scheduler(), parts.sources, parts.bulk,
                [this](const WorkSource& work) { CancelRuns(work); }, [this] { flight_.Pump(); }}) {}

  void Begin();
  void Shutdown();

  ReadId NewReadId() { return reads_.NewId(); }  // any thread
  void Read(ReadId id, ReadRequest request, ReadDone done);
  void StopRead(ReadId id);
  void NoteTouched(const BlobKey& key, const ChunkSet& touched);
  absl::StatusOr<Blob::Lease> Lookup(const BlobKey& key, ByteRange range) const;
  void StartFill(FillId id, FillRequest request, FillDone done);
  void StopFill(FillId id);
  void Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence, SourceKind kind,
             ChunkSink::OnDone on_done);
  CacheActivity Activity();
  void SetReadahead(Readahead readahead) { readahead_ = readahead; }

  Executor& loop() { return parts_.core; }

 private:
  // --- Reads.
  absl::StatusOr<Blob::Lease> Check(const ReadRequest& request, Instant now) const;
  void Wait(ReadId id, PendingRead&& read);
  ChunkRuns JoinAbsent(ReadId id, PendingRead& read);
  void ChunkCame(ReadId id, SourceKind kind, const ChunkTimes& times) override;
  void ChunkFailed(ReadId id, const absl::Status& status) override { Complete(id, status); }
  void Complete(ReadId id, const absl::Status& status);
  void Answer(PendingRead&& read, absl::Status status);
  void ArmDeadline();
  void ExpireReads(Instant armed);

  // --- What nobody waits for.
  void StartWork(FetchScheduler::Start start) override;
  void CancelRuns(const WorkSource& work);

  // --- Offers.
  void EndOffer(const std::shared_ptr<Blob>& blob, ChunkIndex index, absl::StatusOr<Evidence> outcome,
                SourceKind kind, ChunkSink::OnDone on_done);

  Instant Now() const { return parts_.clock.Now(); }

  // Constant after construction.
  const Parts parts_;
  const BlobCacheLimits limits_;
  const ChunkIntake intake_;

  std::atomic<uint64_t> offered_bytes_{0};  // and not done yet

  // Owned by the core loop.
  bool shut_down_ = false;
  ReadTable reads_;
  Amplifier amplifier_;
  Readahead readahead_ = Readahead::kAllowed;
  SingleFlight flight_;
  Fills fills_;
};

// ---------------------------------------------------------------------------------------------- reads

absl::StatusOr<Blob::Lease> BlobCache::Core::Check(const ReadRequest& request, Instant now) const {
  absl::StatusOr<Blob::Lease> lease = parts_.store.Acquire(request.blob);
  if (!lease.ok()) return lease;
  if (absl::Status within = CheckRange(lease->blob(), request.range); !within.ok()) return within;
  if (shut_down_) return ShuttingDown();
  if (request.deadline <= now) {
    return absl::DeadlineExceededError(absl::StrCat("the deadline of a read of blob ",
                                                    request.blob.ToString(), " had passed before it began"));
  }
  return lease;
}

void BlobCache::Core::Read(ReadId id, ReadRequest request, ReadDone done) {
  const Instant now = Now();
  absl::StatusOr<Blob::Lease> lease = Check(request, now);
  if (!lease.ok()) {
    if (IsReaders(request.fetch_class, request.asker)) parts_.telemetry.read_errors.Add();
    return std::move(done)(std::move(lease).status());
  }
  const std::shared_ptr<Blob> blob = lease->shared();
  PendingRead read{.blob = blob,
                   .lease = *std::move(lease),
                   .range = request.range,
                   .fetch_class = request.fetch_class,
                   .asker = request.asker,
                   .grant = std::move(request.grant),
                   .mode = request.mode,
                   .started = now,
                   .deadline = request.deadline,
                   .done = std::move(done)};
  const ChunkSpan chunks = read.chunks();
  // Another node looks ahead by itself.
  const bool is_readers = IsReaders(read.fetch_class, read.asker) && read.mode == ReadMode::kFetch;
  if (is_readers && readahead_ == Readahead::kAllowed) {
    const auto per_trip = [&] { return flight_.ChunksPerTrip(read); };
    if (const std::shared_ptr<WorkSource> ahead = amplifier_.Advance(blob, chunks, now, per_trip))
      flight_.scheduler().Ready(ahead, blob, FetchClass::kReadahead);
  }
  if (blob->presence().AllPresent(chunks)) {
    Answer(std::move(read), absl::OkStatus());
  } else if (reads_.waiting() >= limits_.reads_waiting_max) {
    Answer(std::move(read), absl::ResourceExhaustedError(absl::StrCat(
                                limits_.reads_waiting_max, " reads are waiting, no more are taken")));
  } else {
    Wait(id, std::move(read));
  }
  flight_.Pump();
}

void BlobCache::Core::NoteTouched(const BlobKey& key, const ChunkSet& touched) {
  if (const std::shared_ptr<Blob> blob = parts_.store.Find(key)) amplifier_.Touched(blob, touched);
}

void BlobCache::Core::StopRead(ReadId id) {
  if (const PendingRead* const read = reads_.Find(id)) flight_.Forget(id, *read->blob, read->chunks());
  Complete(id, absl::CancelledError("nobody wants it any more"));
  flight_.Pump();
}

void BlobCache::Core::Wait(ReadId id, PendingRead&& read) {
  const std::shared_ptr<Blob> blob = read.blob;
  const FetchClass fetch_class = read.fetch_class;
  PendingRead& waiting = reads_.Add(id, std::move(read));
  parts_.telemetry.reads_waiting.Set(static_cast<int64_t>(reads_.waiting()));
  ArmDeadline();
  flight_.Queue(blob, JoinAbsent(id, waiting), fetch_class);
}

// What has to be started for it. The read is answered if nothing is absent any more.
ChunkRuns BlobCache::Core::JoinAbsent(ReadId id, PendingRead& read) {
  const ChunkSpan chunks = read.chunks();
  ChunkRuns to_start;
  for (ChunkIndex index = chunks.first; index < chunks.end(); index = index.next()) {
    if (read.blob->presence().IsPresent(index)) continue;
    if (read.mode == ReadMode::kFetch) {
      flight_.Join(id, read, index, to_start);
    } else {
      flight_.JoinOthers(id, read, index);
    }
  }
  if (read.outstanding == 0) Complete(id, absl::OkStatus());
  return to_start;
}

void BlobCache::Core::ChunkCame(ReadId id, SourceKind kind, const ChunkTimes& times) {
  PendingRead* const read = reads_.Find(id);
  if (!read) return;  // it expired, or failed with another of its chunks
  read->farthest = std::max(read->farthest, kind);
  read->last_times = times;
  if (--read->outstanding > 0) return;
  // One that came earlier may have been taken back since.
  if (read->blob->presence().AllPresent(read->chunks())) return Complete(id, absl::OkStatus());
  const std::shared_ptr<Blob> blob = read->blob;
  const FetchClass fetch_class = read->fetch_class;
  flight_.Queue(blob, JoinAbsent(id, *read), fetch_class);
}

void BlobCache::Core::Complete(ReadId id, const absl::Status& status) {
  std::optional<PendingRead> read = reads_.Take(id);
  if (!read) return;
  parts_.telemetry.reads_waiting.Set(static_cast<int64_t>(reads_.waiting()));
  Answer(*std::move(read), status);
}

void BlobCache::Core::Answer(PendingRead&& read, absl::Status status) {
  if (read.blob->refused()) {
    status = absl::DataLossError(absl::StrCat("blob ", read.blob->digest().ToString(),
                                              " was refused during the read: its bytes do not match its "
                                              "digest, or its file was lost; evict it to fetch it anew"));
  }
  const bool readers = IsReaders(read.fetch_class, read.asker);
  if (!status.ok()) {
    if (readers) parts_.telemetry.read_errors.Add();
    return std::move(read.done)(std::move(status));
  }
  if (readers) {
    const int source = static_cast<int>(read.farthest);
    parts_.telemetry.reads[source].Add();
    parts_.telemetry.read_bytes[source].Add(read.range.length);
    parts_.telemetry.read_duration[source].Observe(Now() - read.started);
  }
  const ReadTimes times = read.last_times ? TimesOf(*read.last_times, read.started, Now()) : ReadTimes();
  std::move(read.done)(ReadResult{read.farthest, std::move(read.lease), times});
}

void BlobCache::Core::ArmDeadline() {
  const std::optional<Instant> when = reads_.Arm();
  if (!when) return;
  parts_.core.PostAt(*when, [weak = weak_from_this(), armed = *when] {
    if (const auto core = weak.lock()) core->ExpireReads(armed);
  });
}

void BlobCache::Core::ExpireReads(Instant armed) {
  for (const ReadId id : reads_.Overdue(armed, Now())) {
    const PendingRead* const read = reads_.Find(id);
    if (!read) continue;
    Complete(id, absl::DeadlineExceededError(
                     absl::StrCat("bytes ", read->range.offset, "+", read->range.length, " of blob ",
                                  read->blob->digest().ToString(), " did not arrive by the deadline (",
                                  read->outstanding, " chunks missing)")));
  }
  ArmDeadline();
}

absl::StatusOr<Blob::Lease> BlobCache::Core::Lookup(const BlobKey& key, ByteRange range) const {
  absl::StatusOr<Blob::Lease> lease = parts_.store.Acquire(key);
  if (!lease.ok()) return lease;
  const Blob& blob = lease->blob();
  if (absl::Status within = CheckRange(blob, range); !within.ok()) return within;
  if (blob.presence().AllPresent(blob.geometry().Covering(range))) return lease;
  return absl::NotFoundError(absl::StrCat("bytes ", range.offset, "+", range.length, " of blob ",
                                          key.name().ToString(), " are not all present"));
}

// --------------------------------------------------------------------------- what nobody waits for

void BlobCache::Core::StartWork(FetchScheduler::Start start) {
  const std::shared_ptr<Blob>& blob = start.run.blob;
  const ChunkSpan chunks = start.run.chunks;
  if (parts_.store.Find(blob->key()) != blob) {
    return start.run.work->Ended(
        chunks, absl::NotFoundError(absl::StrCat("blob ", blob->digest().ToString(), " was evicted")));
  }
  PendingRead read{.blob = blob,
                   .range = blob->geometry().RangeOf(chunks),
                   .fetch_class = start.run.fetch_class,
                   .grant = start.run.work->grant(),
                   .started = Now(),
                   .deadline = Now() + limits_.fetch_timeout,
                   .work = start.run.work.get(),
                   .done = [work = start.run.work, chunks](absl::StatusOr<ReadResult> result) {
                     work->Ended(chunks, result.status());
                   }};
  const ReadId id = reads_.NewId();
  PendingRead& waiting = reads_.Add(id, std::move(read));
  ArmDeadline();
  flight_.StartRuns(blob, JoinAbsent(id, waiting), start.run.fetch_class, std::move(start.slot));
}

void BlobCache::Core::CancelRuns(const WorkSource& work) {
  for (const ReadId id : reads_.OfWork(work)) {
    const std::optional<PendingRead> read = reads_.Take(id);
    flight_.Forget(id, *read->blob, read->chunks());
  }
}

void BlobCache::Core::StartFill(FillId id, FillRequest request, FillDone done) {
  if (shut_down_) return std::move(done)(ShuttingDown());
  absl::StatusOr<Blob::Lease> lease = parts_.store.Acquire(request.blob);
  if (!lease.ok()) return std::move(done)(std::move(lease).status());
  fills_.Start(id, *std::move(lease), std::move(request), std::move(done));
  flight_.Pump();
}

void BlobCache::Core::StopFill(FillId id) {
  fills_.Stop(id);
  flight_.Pump();
}

// --------------------------------------------------------------------------------------------- offers

void BlobCache::Core::Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence,
                            SourceKind kind, ChunkSink::OnDone on_done) {
  const uint64_t length = bytes.size();
  if (index.value() >= blob->geometry().chunk_count() || length != blob->geometry().RangeOf(index).length) {
    return EndOffer(
        blob, index,
        absl::InvalidArgumentError(absl::StrCat("chunk ", index.value(), " of blob ",
                                                blob->digest().ToString(), " has not ", length, " bytes")),
        kind, std::move(on_done));
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
    absl::StatusOr<Evidence> outcome = core->intake_.Verify(*blob, index, bytes.span(), evidence, kind);
    if (outcome.ok()) {
      const absl::Status stored = core->intake_.Commit(*blob, index, bytes.span(), *outcome);
      if (!stored.ok()) outcome = stored;
    }
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
    if (outcome.ok()) core->flight_.Arrived(blob, index, *outcome, kind);
    std::move(on_done)(outcome.status());
    core->flight_.Pump();
  });
}

// ---------------------------------------------------------------------------------------- life, facade

CacheActivity BlobCache::Core::Activity() {
  CacheActivity activity = ActivityOf(reads_, flight_.wanted(), Now());
  activity.inflight_bytes = flight_.scheduler().inflight_bytes();
  return activity;
}

void BlobCache::Core::Begin() {
  parts_.sources.OnOffersChanged([weak = weak_from_this()](const Digest& digest) {
    const auto core = weak.lock();
    if (!core) return;
    core->loop().Post([core, digest] { core->flight_.OffersChanged(digest); });
  });
}

void BlobCache::Core::Shutdown() {
  shut_down_ = true;
  parts_.sources.OnOffersChanged(nullptr);
  flight_.Stop();
  fills_.StopAll(ShuttingDown());
  for (const ReadId id : reads_.All()) Complete(id, ShuttingDown());
}

BlobCache::BlobCache(Parts parts, BlobCacheLimits limits) : core_(std::make_shared<Core>(parts, limits)) {
  core_->Begin();
}

BlobCache::~BlobCache() {
  core_->Shutdown();
  // It may be one of the core's own callbacks that destroys the cache: the core goes when that has returned.
  core_->loop().Post([core = core_] {});
}

ReadId BlobCache::Read(ReadRequest request, ReadDone done) {
  const ReadId id = core_->NewReadId();
  core_->loop().Post([core = core_, id, request = std::move(request), done = std::move(done)]() mutable {
    core->Read(id, std::move(request), std::move(done));
  });
  return id;
}

void BlobCache::StopRead(ReadId id) {
  core_->loop().Post([core = core_, id] { core->StopRead(id); });
}

absl::StatusOr<Blob::Lease> BlobCache::Lookup(const BlobKey& key, ByteRange range) const {
  return core_->Lookup(key, range);
}

FillId BlobCache::Fill(FillRequest request, FillDone done) {
  const auto id = static_cast<FillId>(next_fill_++);
  core_->loop().Post([core = core_, id, request = std::move(request), done = std::move(done)]() mutable {
    core->StartFill(id, std::move(request), std::move(done));
  });
  return id;
}

void BlobCache::StopFill(FillId id) {
  core_->loop().Post([core = core_, id] { core->StopFill(id); });
}

void BlobCache::NoteTouched(const BlobKey& key, ChunkSet touched) {
  core_->loop().Post([core = core_, key, touched = std::move(touched)] { core->NoteTouched(key, touched); });
}

void BlobCache::SetReadahead(Readahead readahead) {
  core_->loop().Post([core = core_, readahead] { core->SetReadahead(readahead); });
}

void BlobCache::Observe(ActivityDone done) {
  core_->loop().Post([core = core_, done = std::move(done)]() mutable { std::move(done)(core->Activity()); });
}

void BlobCache::Offer(std::shared_ptr<Blob> blob, ChunkIndex index, Buffer bytes, Evidence evidence,
                      SourceKind kind, ChunkSink::OnDone on_done) {
  core_->Offer(std::move(blob), index, std::move(bytes), evidence, kind, std::move(on_done));
}

}  // namespace sluice
