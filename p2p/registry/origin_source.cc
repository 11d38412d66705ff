#include "p2p/registry/origin_source.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/chunk_flow.h"
#include "p2p/http/text.h"
#include "p2p/registry/frame_decoder.h"
#include "p2p/registry/seek_table.h"

namespace sluice::p2p {
namespace {

// Of a node that fetches its part of a blob, and nothing that is read ahead, by one request: not much of such
// a part is asked for in vain.
constexpr LongReads::Limits kLimitsOfParts{.long_bytes = UINT64_MAX, .hinted_in_a_row = 1};

}  // namespace

// Who gave wrong bytes of a blob. Thread-safe.
class OriginSource::Liars {
 public:
  void Add(const BlobKey& blob, SenderId sender) {
    const Liar liar(blob, sender);
    const std::lock_guard lock(mutex_);
    if (std::find(liars_.begin(), liars_.end(), liar) != liars_.end()) return;
    if (liars_.size() == kLiarsMax) liars_.pop_front();
    liars_.push_back(liar);
  }

  // The origins of a blob, those that gave wrong bytes of it last.
  std::vector<BlobOrigin> PutLast(const BlobKey& blob, std::vector<BlobOrigin> origins) const {
    const std::lock_guard lock(mutex_);
    if (liars_.empty() || origins.size() < 2) return origins;
    std::stable_partition(origins.begin(), origins.end(), [&](const BlobOrigin& origin) {
      return std::find(liars_.begin(), liars_.end(), Liar(blob, TagOf(origin))) == liars_.end();
    });
    return origins;
  }

 private:
  using Liar = std::pair<BlobKey, SenderId>;

  mutable std::mutex mutex_;
  std::deque<Liar> liars_;  // guarded by mutex_; no two alike
};

// One fetch, until its OnDone. Its steps follow one another, on the threads of the client and the executor,
// so its fields need no lock, but for those by which it is cancelled and raised, and frames wait, meanwhile.
class OriginSource::Fetching final : public FetchControl, public std::enable_shared_from_this<Fetching> {
 public:
  // REQUIRES: there are origins; `facts` are the blob's
  Fetching(const Parts& parts, std::shared_ptr<SeekTableCache> tables, std::shared_ptr<Liars> liars,
           std::shared_ptr<LongReads> long_reads, std::shared_ptr<const BlobSpec> facts,
           std::vector<BlobOrigin> origins, FetchRequest request, ChunkSource::OnChunk on_chunk,
           ChunkSource::OnDone on_done)
      : parts_(parts),
        tables_(std::move(tables)),
        liars_(std::move(liars)),
        long_reads_(std::move(long_reads)),
        facts_(std::move(facts)),
        origins_(std::move(origins)),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        next_(request_.chunks.first) {}

  void Ask() {
    if (origin_ >= origins_.size()) return Finish(std::move(worst_));
    progressed_ = false;
    table_ = nullptr;
    stored_ = facts_->StoredAt(origins_[origin_]);
    if (!stored_) return AskForBytes();
    if (stored_->seek_table) return AskForTable();
    const ChunkGeometry& geometry = request_.blob->geometry();
    if (geometry.chunk_count() > 1) {
      return OnRangeDone(absl::FailedPreconditionError(
          absl::StrCat("blob ", request_.blob->digest().ToString(), " is stored compressed as a whole at ",
                       OriginName(), ": no part of it can be fetched")));
    }
    absl::StatusOr<SeekTable> table = SeekTable::OfOneFrame(geometry, stored_->size);
    if (!table.ok()) return OnRangeDone(OfTable(table.status()));
    table_ = std::make_shared<const SeekTable>(*std::move(table));
    AskForBytes();
  }

  void Raise(FetchClass fetch_class) override {
    if (fetch_class >= fetch_class_) return;
    fetch_class_ = fetch_class;
    if (const auto asked = Asked()) asked->Raise(fetch_class);
  }

  void Cancel() override {
    cancelled_ = true;
    if (const auto asked = Asked()) asked->Cancel();
  }

 private:
  std::string OriginName() const {
    return absl::StrCat(origins_[origin_].registry, "/", origins_[origin_].repository);
  }
  SenderId Sender() const { return SenderId{TagOf(origins_[origin_])}; }

  void AskForTable() {
    const uint64_t ask = BeginAsking();
    NoteAsked(ask, tables_->Get(
                       origins_[origin_], *stored_, request_.blob->geometry(), request_.grant, fetch_class_,
                       DeadlineOfOne(),
                       [self = shared_from_this()](OriginAccess access) { self->OnAccess(access); },
                       [self = shared_from_this()](absl::StatusOr<SeekTableCache::Table> table) {
                         if (!table.ok()) return self->OnRangeDone(self->OfTable(table.status()));
                         self->table_ = *std::move(table);
                         self->AskForBytes();
                       }));
  }
  absl::Status OfTable(const absl::Status& status) const {
    return absl::Status(status.code(), absl::StrCat("seek table of blob ", request_.blob->digest().ToString(),
                                                    " at ", OriginName(), ": ", status.message()));
  }

  void AskForBytes() {
    const ChunkSpan left{next_, request_.chunks.end().value() - next_.value()};
    const ChunkGeometry& geometry = request_.blob->geometry();
    const ChunkSpan run = parts_.run_around ? parts_.run_around(geometry, next_) : geometry.All();
    const uint64_t ask = BeginAsking();
    BlobRead read{
        .origin = origins_[origin_],
        .digest = stored_ ? stored_->digest : request_.blob->digest(),
        .blob_size = stored_ ? stored_->size : geometry.size(),
        .range = table_ ? table_->RangeOf(left) : geometry.RangeOf(left),
        .fetch_class = fetch_class_,
        .deadline = DeadlineOfOne(),
        .grant = request_.grant,
        // Before any chunk can be committed, so that none is ever taken for public that is not.
        .on_access = [self = shared_from_this()](OriginAccess access) { self->OnAccess(access); },
        .on_data = [self = shared_from_this()](std::span<const std::byte> bytes) { self->OnData(bytes); },
        .done =
            [self = shared_from_this()](absl::Status status) {
              if (!self->table_) return self->OnRangeDone(std::move(status));
              // After the frames that have come.
              self->Enqueue(
                  [self, status = std::move(status)]() mutable { self->OnRangeDone(std::move(status)); });
            },
    };
    const LongReads::Begun asked =
        long_reads_->Read(std::move(read), table_ ? table_->RangeOf(run) : geometry.RangeOf(run));
    if (asked.goes_on) request_.progress->GoesOn();
    NoteAsked(ask, asked.control);
  }

  uint64_t BeginAsking() {
    const std::lock_guard lock(mutex_);
    asked_.reset();
    return ++asks_;
  }
  // By now the answer may have come, and the next be asked for; or it was cancelled or raised.
  void NoteAsked(uint64_t ask, const std::shared_ptr<FetchControl>& asked) {
    {
      const std::lock_guard lock(mutex_);
      if (ask != asks_) return;
      asked_ = asked;
    }
    if (cancelled_) asked->Cancel();
    asked->Raise(fetch_class_);
  }
  std::shared_ptr<FetchControl> Asked() {
    const std::lock_guard lock(mutex_);
    return asked_.lock();
  }

  // For the chunk that comes next: its own bytes, or its frame's, which nobody can pass on.
  ChunkInflow BeginNext() const {
    if (table_) return ChunkInflow(static_cast<size_t>(table_->RangeOf(next_).length));
    const uint64_t length = request_.blob->geometry().RangeOf(next_).length;
    return ChunkInflow(request_.flows, request_.blob->key(), next_, static_cast<size_t>(length), {});
  }

  void OnData(std::span<const std::byte> bytes) {
    request_.progress->Add(bytes.size());
    while (!bytes.empty()) {
      if (chunk_.filled() == 0) chunk_ = BeginNext();
      bytes = chunk_.Add(bytes);
      if (!chunk_.IsWhole()) return;
      progressed_ = true;
      const ChunkIndex index = std::exchange(next_, next_.next());
      Buffer whole = std::exchange(chunk_, {}).Take();
      if (!table_) {
        Deliver(index, std::move(whole));
      } else {
        Enqueue([self = shared_from_this(), index, frame = std::move(whole)] { self->Decode(index, frame); });
      }
    }
  }

  void Deliver(ChunkIndex index, Buffer plain) {
    parts_.telemetry.origin_plain_bytes.Add(plain.size());
    on_chunk_(index, std::move(plain), Sender());
  }

  // On the executor, as all that was enqueued.
  void Decode(ChunkIndex index, const Buffer& frame) {
    if (cancelled_) return;
    if (!decoder_) decoder_.emplace();
    Buffer plain(static_cast<size_t>(request_.blob->geometry().RangeOf(index).length));
    const absl::Status decoded = decoder_->Decode(frame.span(), plain.span());
    if (decoded.ok()) return Deliver(index, std::move(plain));
    parts_.telemetry.verify_failures[static_cast<size_t>(SourceKind::kOrigin)].Add();
    liars_->Add(request_.blob->key(), Sender());
    if (!lie_.ok()) return;
    lie_ = absl::DataLossError(absl::StrCat("chunk ", index.value(), " of blob ",
                                            request_.blob->digest().ToString(), " from ", OriginName(), ": ",
                                            decoded.message()));
  }

  // Runs `step` on the executor, after all that were enqueued before.
  void Enqueue(Task step) {
    {
      const std::lock_guard lock(mutex_);
      steps_.push_back(std::move(step));
      if (std::exchange(working_, true)) return;
    }
    parts_.io.Post([self = shared_from_this()] { self->Work(); });
  }
  void Work() {
    while (true) {
      Task step;
      {
        const std::lock_guard lock(mutex_);
        if (steps_.empty()) {
          working_ = false;
          return;
        }
        step = std::move(steps_.front());
        steps_.pop_front();
      }
      std::move(step)();
    }
  }

  void OnAccess(OriginAccess access) {
    parts_.ledger.NoteAccess(request_.blob->key(), origins_[origin_], access);
  }

  bool IsLast() const { return origin_ + 1 == origins_.size(); }
  // One that is silent leaves half of the time to those that are left.
  Instant DeadlineOfOne() const {
    if (IsLast()) return request_.deadline;
    const Instant now = parts_.clock.Now();
    return now + (request_.deadline - now) / 2;
  }

  void OnRangeDone(absl::Status status) {
    // Whoever is passed on a part of a chunk is to ask elsewhere.
    chunk_ = {};
    // Frames that came were left alone since.
    if (cancelled_ && table_) return Finish(absl::CancelledError("nobody wants it any more"));
    if (next_ == request_.chunks.end()) return Finish(std::move(lie_));
    // With no time left, or nobody left to ask through, another registry would say the same.
    if ((absl::IsDeadlineExceeded(status) && (IsLast() || parts_.clock.Now() >= request_.deadline)) ||
        absl::IsCancelled(status)) {
      return Finish(std::move(status));
    }
    const bool resume = progressed_ && absl::IsUnavailable(status) && resumes_ < OriginSource::kResumesMax;
    // That a registry lacks the blob says the least about why it can't be had; that one is away, the most.
    if (worst_.ok() || absl::IsNotFound(worst_) || absl::IsUnavailable(status)) worst_ = std::move(status);
    if (resume) {
      ++resumes_;
    } else {
      ++origin_;
    }
    Ask();
  }

  // Keeps to the errors that a source may give.
  void Finish(absl::Status status) {
    switch (status.code()) {
      case absl::StatusCode::kOk:
      case absl::StatusCode::kNotFound:
      case absl::StatusCode::kPermissionDenied:
      case absl::StatusCode::kUnauthenticated:
      case absl::StatusCode::kFailedPrecondition:
      case absl::StatusCode::kDeadlineExceeded:
      case absl::StatusCode::kDataLoss:
      case absl::StatusCode::kCancelled:
        break;
      case absl::StatusCode::kOutOfRange:
        status = absl::DataLossError(status.message());
        break;
      case absl::StatusCode::kInvalidArgument:
        status = absl::FailedPreconditionError(status.message());
        break;
      default:
        status = absl::UnavailableError(status.message());
    }
    std::move(on_done_)(std::move(status));
  }

  const Parts parts_;
  const std::shared_ptr<SeekTableCache> tables_;
  const std::shared_ptr<Liars> liars_;
  const std::shared_ptr<LongReads> long_reads_;
  const std::shared_ptr<const BlobSpec> facts_;
  const std::vector<BlobOrigin> origins_;  // in the order in which they are asked
  const FetchRequest request_;
  ChunkSource::OnChunk on_chunk_;
  ChunkSource::OnDone on_done_;

  size_t origin_ = 0;  // of origins_
  uint32_t resumes_ = 0;
  const StoredForm* stored_ = nullptr;      // at that origin, of facts_; null: plain
  std::shared_ptr<const SeekTable> table_;  // if it is stored compressed
  ChunkIndex next_;                         // the first chunk that has not come whole
  ChunkInflow chunk_;                       // what has come of it, or of its frame
  bool progressed_ = false;                 // since the last Ask
  absl::Status worst_;                      // of the registries asked so far
  std::optional<FrameDecoder> decoder_;
  absl::Status lie_;  // of the first frame that lied

  std::atomic<bool> cancelled_{false};
  std::atomic<FetchClass> fetch_class_{request_.fetch_class};
  std::mutex mutex_;  // guards what follows
  uint64_t asks_ = 0;
  // What is asked now. It holds this fetch until it has answered; the other way round it would never go.
  std::weak_ptr<FetchControl> asked_;
  std::deque<Task> steps_;  // enqueued
  bool working_ = false;    // a task runs them, or is about to
};

OriginSource::OriginSource(Parts parts, size_t seek_table_bytes_max)
    : parts_(parts),
      tables_(std::make_shared<SeekTableCache>(
          SeekTableCache::Parts{parts.registry, parts.clock, parts.io, parts.ask_for_table},
          seek_table_bytes_max)),
      liars_(std::make_shared<Liars>()),
      long_reads_(std::make_shared<LongReads>(LongReads::Parts{
          [&registry = parts.registry](BlobRead read, RegistryClient::Takes takes) {
            return registry.ReadBlobPaced(std::move(read), std::move(takes));
          },
          [&registry = parts.registry](Duration delay, Task task) { registry.After(delay, std::move(task)); },
          parts.clock, parts.run_around ? kLimitsOfParts : LongReads::Limits{},
          [&telemetry = parts.telemetry](LongReadResult result) {
            telemetry.origin_long_reads[static_cast<size_t>(result)].Add();
          }})) {}

OriginSource::~OriginSource() = default;

FetchHandle OriginSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  std::shared_ptr<const BlobSpec> facts = request.blob->facts();
  std::vector<BlobOrigin> origins = liars_->PutLast(request.blob->key(), facts->origins);
  if (origins.empty()) {
    std::move(on_done)(absl::NotFoundError(
        absl::StrCat("no registry is known to hold ", request.blob->digest().ToString())));
    return {};
  }
  auto fetch =
      std::make_shared<Fetching>(parts_, tables_, liars_, long_reads_, std::move(facts), std::move(origins),
                                 std::move(request), std::move(on_chunk), std::move(on_done));
  fetch->Ask();
  return FetchHandle(std::move(fetch));
}

absl::StatusOr<OriginSource::GivenChunk> OriginSource::ReadChunk(const BlobOrigin& origin,
                                                                 const std::shared_ptr<Blob>& blob,
                                                                 ChunkIndex index, Instant deadline) {
  // What the fetch refers to, until its callbacks have gone.
  struct Answer final : public AccessLedger {
    void NoteAccess(const BlobKey&, const BlobOrigin&, OriginAccess access) override {
      given.access = access;
    }
    OriginAccess AccessOf(const BlobKey&, const BlobOrigin&) const override { return given.access; }

    GivenChunk given;
    std::promise<absl::Status> done;
  };
  const auto answer = std::make_shared<Answer>();
  std::future<absl::Status> done = answer->done.get_future();
  const auto fetch = std::make_shared<Fetching>(
      Parts{parts_.registry, *answer, parts_.clock, parts_.io, parts_.telemetry}, tables_, liars_,
      long_reads_, blob->facts(), std::vector{origin},
      FetchRequest{.blob = blob,
                   .chunks = {index, 1},
                   .fetch_class = FetchClass::kDemand,
                   .deadline = deadline,
                   .progress = std::make_shared<FetchProgress>(parts_.clock)},
      [answer](ChunkIndex, Buffer chunk, SenderId) { answer->given.bytes = std::move(chunk); },
      [answer](absl::Status status) { answer->done.set_value(std::move(status)); });
  fetch->Ask();
  if (absl::Status ended = done.get(); !ended.ok()) return ended;
  return std::move(answer->given);
}

void OriginSource::Judge(SenderId sender, const Blob& blob, ChunkIndex, Verdict verdict) {
  if (verdict == Verdict::kWrong) liars_->Add(blob.key(), sender);
}

void OriginSource::Expect(const Blob& blob) {
  const std::shared_ptr<const BlobSpec> facts = blob.facts();
  if (facts->origins.empty() || blob.presence().complete()) return;
  const BlobOrigin& origin = facts->origins.front();
  const StoredForm* const stored = facts->StoredAt(origin);
  if (!stored || !stored->seek_table) return;
  tables_->Get(
      origin, *stored, blob.geometry(), nullptr, FetchClass::kHint,
      parts_.clock.Now() + SeekTableCache::kAskMax,
      [ledger = &parts_.ledger, key = blob.key(), origin](OriginAccess access) {
        ledger->NoteAccess(key, origin, access);
      },
      // What went wrong is said to who fetches.
      [](const absl::StatusOr<SeekTableCache::Table>&) {});
}

}  // namespace sluice::p2p
