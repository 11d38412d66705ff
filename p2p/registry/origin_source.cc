#include "p2p/registry/origin_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {
namespace {

// One fetch, until its OnDone. Its steps follow one another, so its fields need no lock, but for those by
// which it is cancelled and raised meanwhile.
class OriginFetch final : public FetchControl, public std::enable_shared_from_this<OriginFetch> {
 public:
  // REQUIRES: there are origins
  OriginFetch(RegistryClient& registry, AccessLedger& ledger, const Clock& clock,
              std::vector<BlobOrigin> origins, FetchRequest request, ChunkSource::OnChunk on_chunk,
              ChunkSource::OnDone on_done)
      : registry_(registry),
        ledger_(ledger),
        clock_(clock),
        origins_(std::move(origins)),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)),
        next_(request_.chunks.first) {}

  void Ask() {
    if (origin_ >= origins_.size()) return Finish(std::move(worst_));
    progressed_ = false;
    filled_ = 0;
    const ChunkSpan left{next_, request_.chunks.end().value() - next_.value()};
    const uint64_t ask = BeginAsking();
    const std::shared_ptr<FetchControl> asked = registry_.ReadBlobRange(
        origins_[origin_], request_.blob->digest(), request_.blob->geometry().size(),
        request_.blob->geometry().RangeOf(left), fetch_class_, DeadlineOfOne(),
        // Before any chunk can be committed, so that none is ever taken for public that is not.
        [self = shared_from_this()](OriginAccess access) { self->OnAccess(access); },
        [self = shared_from_this()](std::span<const std::byte> bytes) { self->OnData(bytes); },
        [self = shared_from_this()](absl::Status status) { self->OnRangeDone(std::move(status)); });
    NoteAsked(ask, asked);
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

  void OnData(std::span<const std::byte> bytes) {
    request_.progress->Add(bytes.size());
    while (!bytes.empty()) {
      const uint64_t length = request_.blob->geometry().RangeOf(next_).length;
      if (filled_ == 0) chunk_ = Buffer(static_cast<size_t>(length));
      const size_t n = std::min<size_t>(bytes.size(), chunk_.size() - filled_);
      std::memcpy(chunk_.data() + filled_, bytes.data(), n);
      filled_ += n;
      bytes = bytes.subspan(n);
      if (filled_ < chunk_.size()) return;
      filled_ = 0;
      progressed_ = true;
      on_chunk_(std::exchange(next_, next_.next()), std::move(chunk_), SenderId{TagOf(origins_[origin_])});
    }
  }

  void OnAccess(OriginAccess access) { ledger_.NoteAccess(request_.blob->key(), origins_[origin_], access); }

  bool IsLast() const { return origin_ + 1 == origins_.size(); }
  // One that is silent leaves half of the time to those that are left.
  Instant DeadlineOfOne() const {
    if (IsLast()) return request_.deadline;
    const Instant now = clock_.Now();
    return now + (request_.deadline - now) / 2;
  }

  void OnRangeDone(absl::Status status) {
    if (next_ == request_.chunks.end()) return Finish(absl::OkStatus());
    // With no time left, or nobody left to ask through, another registry would say the same.
    if ((absl::IsDeadlineExceeded(status) && (IsLast() || clock_.Now() >= request_.deadline)) ||
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

  RegistryClient& registry_;
  AccessLedger& ledger_;
  const Clock& clock_;
  const std::vector<BlobOrigin> origins_;  // in the order in which they are asked
  const FetchRequest request_;
  ChunkSource::OnChunk on_chunk_;
  ChunkSource::OnDone on_done_;

  size_t origin_ = 0;  // of origins_
  uint32_t resumes_ = 0;
  ChunkIndex next_;  // the first chunk that has not been delivered
  Buffer chunk_;     // what has come of it
  size_t filled_ = 0;
  bool progressed_ = false;  // since the last Ask
  absl::Status worst_;       // of the registries asked so far

  std::atomic<bool> cancelled_{false};
  std::atomic<FetchClass> fetch_class_{request_.fetch_class};
  std::mutex mutex_;  // guards what follows
  uint64_t asks_ = 0;
  // What is asked now. It holds this fetch until it has answered; the other way round it would never go.
  std::weak_ptr<FetchControl> asked_;
};

}  // namespace

FetchHandle OriginSource::Fetch(FetchRequest request, OnChunk on_chunk, OnDone on_done) {
  std::vector<BlobOrigin> origins = OriginsOf(*request.blob);
  if (origins.empty()) {
    std::move(on_done)(absl::NotFoundError(
        absl::StrCat("no registry is known to hold ", request.blob->digest().ToString())));
    return {};
  }
  auto fetch = std::make_shared<OriginFetch>(registry_, ledger_, clock_, std::move(origins),
                                             std::move(request), std::move(on_chunk), std::move(on_done));
  fetch->Ask();
  return FetchHandle(std::move(fetch));
}

void OriginSource::Judge(SenderId sender, const Blob& blob, ChunkIndex, Verdict verdict) {
  if (verdict == Verdict::kRight) return;
  const Liar liar(blob.key(), sender);
  const std::lock_guard lock(mutex_);
  if (std::find(liars_.begin(), liars_.end(), liar) != liars_.end()) return;
  if (liars_.size() == kLiarsMax) liars_.pop_front();
  liars_.push_back(liar);
}

// Those that gave wrong bytes of it last.
std::vector<BlobOrigin> OriginSource::OriginsOf(const Blob& blob) const {
  std::vector<BlobOrigin> origins = blob.facts()->origins;
  const std::lock_guard lock(mutex_);
  if (liars_.empty() || origins.size() < 2) return origins;
  std::stable_partition(origins.begin(), origins.end(), [&](const BlobOrigin& origin) {
    return std::find(liars_.begin(), liars_.end(), Liar(blob.key(), TagOf(origin))) == liars_.end();
  });
  return origins;
}

}  // namespace sluice::p2p
