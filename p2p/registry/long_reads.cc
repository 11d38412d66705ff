#include "p2p/registry/long_reads.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace sluice::p2p {
namespace {

// Of whom a request is, and of what: those that are alike may go on with one another's answers.
struct Stream {
  explicit Stream(const BlobRead& read) : origin(read.origin), digest(read.digest), grant(read.grant) {}
  bool operator<(const Stream& other) const {
    return std::tie(origin, digest, grant) < std::tie(other.origin, other.digest, other.grant);
  }
  bool operator==(const Stream& other) const {
    return std::tie(origin, digest, grant) == std::tie(other.origin, other.digest, other.grant);
  }

  BlobOrigin origin;
  Digest digest;
  Grant grant;
};

// A server may answer a long range otherwise than a short one: with less than was asked for, or not at all.
bool IsOfTheAnswer(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsOutOfRange(status) || absl::IsFailedPrecondition(status) ||
         absl::IsResourceExhausted(status);
}

}  // namespace

// Its lock guards all that is mutable of its pieces and requests, too. No callback is called with it.
class LongReads::Core final : public std::enable_shared_from_this<Core> {
 public:
  explicit Core(Parts parts) : parts_(std::move(parts)) {}

  Begun Read(BlobRead read, ByteRange run);
  size_t under_way() const {
    const std::lock_guard lock(mutex_);
    return requests_.size();
  }

 private:
  struct Request;

  // A range that somebody asked for. Its callbacks are called on the answers' thread, one after another.
  class Piece final : public FetchControl, public std::enable_shared_from_this<Piece> {
   public:
    Piece(std::shared_ptr<Core> core, BlobRead read)
        : core_(std::move(core)), read_(std::move(read)), range_(read_.range) {}

    void Raise(FetchClass fetch_class) override { core_->Raise(shared_from_this(), fetch_class); }
    void Cancel() override { core_->TakeOut(shared_from_this(), absl::CancelledError("nobody wants it")); }

    void Tell(OriginAccess access) {
      if (!std::exchange(told_, true)) read_.on_access(access);
    }
    void Give(std::span<const std::byte> bytes) { read_.on_data(bytes); }
    void End(absl::Status status) { std::move(read_.done)(std::move(status)); }

    const std::shared_ptr<Core> core_;
    BlobRead read_;  // without its callbacks when it is asked for alone
    const ByteRange range_;
    bool told_ = false;  // what it takes to get it

    // Guarded by the core's lock.
    std::weak_ptr<FetchControl> alone_;  // its own request
    bool is_cancelled_ = false;          // no more than that is left to be done
  };
  using PiecePtr = std::shared_ptr<Piece>;

  // An answer that pieces share.
  struct Request {
    Request(const BlobRead& read, ByteRange run)
        : stream(read),
          is_fill(IsFill(read.fetch_class)),
          first(read.range.offset),
          end(run.end()),
          at(first),
          tail(read.range.end()) {}

    const Stream stream;
    const bool is_fill;
    const uint64_t first, end;  // what was asked for
    uint64_t at;                // given so far
    uint64_t tail;              // where the next piece would begin
    std::deque<PiecePtr> pieces;
    std::vector<std::byte> left_over;  // came after the last piece's end
    std::optional<OriginAccess> access;
    std::weak_ptr<PacedControl> control;
    uint32_t went_on = 0;    // pieces after the first
    uint64_t holds = 0;      // times that nobody went on with it
    bool has_ended = false;  // nothing more comes
    bool is_over = false;    // nothing more of it is given
  };
  using RequestPtr = std::shared_ptr<Request>;

  Begun GoOn(const RequestPtr& request, PiecePtr piece);
  bool MayGoOn(const Request& request, const BlobRead& read) const;
  Begun Begin(PiecePtr piece, ByteRange run);
  bool MayBegin(const BlobRead& read, ByteRange run);
  std::optional<uint32_t> NoteInARow(const BlobRead& read);
  void AskAlone(const PiecePtr& piece);
  void AskAlone(const std::vector<PiecePtr>& pieces) {
    for (const PiecePtr& piece : pieces) AskAlone(piece);
  }

  void OnAccess(const RequestPtr& request, OriginAccess access);
  void OnData(const RequestPtr& request, std::span<const std::byte> bytes);
  void OnDone(const RequestPtr& request, absl::Status status);
  void Resume(const RequestPtr& request);
  void Hold(const RequestPtr& request);
  void GiveUp(const RequestPtr& request, uint64_t hold);

  void Raise(const PiecePtr& piece, FetchClass fetch_class);
  void TakeOut(const PiecePtr& piece, absl::Status why);
  RequestPtr RequestOf(const PiecePtr& piece) const;
  std::vector<PiecePtr> CutAt(Request& request, const PiecePtr& piece);
  void Forget(const RequestPtr& request);
  void EndLater(const PiecePtr& piece, absl::Status status);
  void NoteWorth(const Request& request);

  const Parts parts_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<RequestPtr> requests_;
  // Ranges each of which began where the one before had ended.
  struct Row {
    uint64_t first = 0, end = 0;
    uint32_t count = 0;
    Instant asked{};  // the last
  };
  bool IsAskedFor(const std::vector<Row>& rows, uint64_t offset) const {
    const Instant now = parts_.clock.Now();
    return std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
      return row.first <= offset && offset < row.end && now - row.asked < kAskedKept;
    });
  }
  struct Past {
    uint32_t pass_over = 0;  // so many more times
    uint32_t next = 1;       // after the next that was in vain
    std::vector<Row> rows;   // of fills, the latest last
  };
  Past& PastOf(const Stream& stream);
  std::map<Stream, Past> pasts_;
};

// ---------------------------------------------------------------------------------------------- asking

LongReads::Begun LongReads::Core::Read(BlobRead read, ByteRange run) {
  auto piece = std::make_shared<Piece>(shared_from_this(), std::move(read));
  std::unique_lock lock(mutex_);
  const auto found = std::find_if(requests_.begin(), requests_.end(),
                                  [&](const RequestPtr& request) { return MayGoOn(*request, piece->read_); });
  if (found != requests_.end()) {
    const RequestPtr request = *found;
    lock.unlock();
    if (Begun begun = GoOn(request, piece); begun.control) return begun;
    lock.lock();
  }
  const bool is_long = MayBegin(piece->read_, run);
  lock.unlock();
  if (is_long) return Begin(std::move(piece), run);
  return {parts_.read(std::move(piece->read_), nullptr), false};
}

// REQUIRES: mutex_ is held
bool LongReads::Core::MayGoOn(const Request& request, const BlobRead& read) const {
  if (request.is_over || request.tail != read.range.offset || read.range.end() > request.end) return false;
  if (IsFill(read.fetch_class) && !request.is_fill) return false;
  return request.tail - request.at <= parts_.limits.queued_bytes_max && request.stream == Stream(read);
}

// Null if it has ended since it was found.
LongReads::Begun LongReads::Core::GoOn(const RequestPtr& request, PiecePtr piece) {
  const Duration left = piece->read_.deadline - parts_.clock.Now();
  bool was_held = false;
  {
    const std::lock_guard lock(mutex_);
    if (request->is_over || request->tail != piece->range_.offset) return {};
    was_held = request->pieces.empty();
    request->pieces.push_back(piece);
    request->tail = piece->range_.end();
    ++request->went_on;
  }
  if (was_held) {
    parts_.after(Duration(0), [self = shared_from_this(), request] { self->Resume(request); });
  }
  parts_.after(left, [weak = std::weak_ptr(piece)] {
    const PiecePtr late = weak.lock();
    if (late) late->core_->TakeOut(late, absl::DeadlineExceededError("the bytes before it took too long"));
  });
  return {piece, true};
}

// REQUIRES: mutex_ is held
bool LongReads::Core::MayBegin(const BlobRead& read, ByteRange run) {
  bool is_long = false;
  size_t reads_max = kReadsMax;
  if (IsFill(read.fetch_class)) {
    // What fills a blob up leaves out only what is there.
    const std::optional<uint32_t> in_a_row = NoteInARow(read);
    const bool is_whole = read.fetch_class == FetchClass::kBackfill;
    is_long = in_a_row && *in_a_row >= (is_whole ? 1 : parts_.limits.hinted_in_a_row);
    is_long |= in_a_row && is_whole && read.range.offset == run.offset;
    reads_max = kFillsMax;
  } else if (read.fetch_class == FetchClass::kReadahead) {
    is_long = read.range.length >= parts_.limits.long_bytes;
  }
  if (!is_long || read.range.end() >= run.end() || requests_.size() >= reads_max) return false;
  const auto past = pasts_.find(Stream(read));
  if (past == pasts_.end() || past->second.pass_over == 0) return true;
  --past->second.pass_over;
  return false;
}

// How many ranges of fills in a row end where this one begins; nothing: what follows it was asked for before.
// REQUIRES: mutex_ is held
std::optional<uint32_t> LongReads::Core::NoteInARow(const BlobRead& read) {
  std::vector<Row>& rows = PastOf(Stream(read)).rows;
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.end == read.range.offset; });
  const Row row = found == rows.end() ? Row{.first = read.range.offset} : *found;
  if (found != rows.end() || rows.size() >= kRowsMax) rows.erase(found != rows.end() ? found : rows.begin());
  const bool goes_on = !IsAskedFor(rows, read.range.end());
  rows.push_back({row.first, read.range.end(), row.count + 1, parts_.clock.Now()});
  return goes_on ? std::optional(row.count) : std::nullopt;
}

LongReads::Begun LongReads::Core::Begin(PiecePtr piece, ByteRange run) {
  const auto request = std::make_shared<Request>(piece->read_, run);
  const BlobRead& asked = piece->read_;
  const Instant deadline = asked.deadline;
  BlobRead all{.origin = asked.origin,
               .digest = asked.digest,
               .blob_size = asked.blob_size,
               .range = {request->first, request->end - request->first},
               .fetch_class = asked.fetch_class,
               .deadline = parts_.clock.Now() + kTimeMax,
               .grant = asked.grant,
               .on_access = [self = shared_from_this(),
                             request](OriginAccess access) { self->OnAccess(request, access); },
               .on_data = [self = shared_from_this(),
                           request](std::span<const std::byte> bytes) { self->OnData(request, bytes); },
               .done = [self = shared_from_this(),
                        request](absl::Status status) { self->OnDone(request, std::move(status)); }};
  request->pieces.push_back(piece);
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  const std::shared_ptr<PacedControl> control =
      parts_.read(std::move(all), [self = shared_from_this(), request] {
        const std::lock_guard lock(self->mutex_);
        // What has come is given first: Resume.
        return request->is_over || (!request->pieces.empty() && request->left_over.empty());
      });
  bool is_over = false;
  {
    const std::lock_guard lock(mutex_);
    request->control = control;
    is_over = request->is_over;
  }
  if (is_over) control->Cancel();
  parts_.after(deadline - parts_.clock.Now(), [weak = std::weak_ptr(piece)] {
    const PiecePtr late = weak.lock();
    if (late) late->core_->TakeOut(late, absl::DeadlineExceededError("the registry took too long"));
  });
  return {piece, false};
}

void LongReads::Core::AskAlone(const PiecePtr& piece) {
  BlobRead& read = piece->read_;
  // Nobody else may hold the piece, by which it is cancelled.
  read.done = [piece, done = std::move(read.done)](absl::Status status) mutable {
    std::move(done)(std::move(status));
  };
  const std::shared_ptr<PacedControl> control = parts_.read(std::move(read), nullptr);
  bool is_cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    piece->alone_ = control;
    is_cancelled = piece->is_cancelled_;
  }
  if (is_cancelled) control->Cancel();
}

// --------------------------------------------------------------------------------------------- answers

void LongReads::Core::OnAccess(const RequestPtr& request, OriginAccess access) {
  const std::lock_guard lock(mutex_);
  request->access = access;
}

// On the answers' thread, as Resume.
void LongReads::Core::OnData(const RequestPtr& request, std::span<const std::byte> bytes) {
  while (true) {
    PiecePtr piece;
    std::optional<OriginAccess> access;
    {
      const std::lock_guard lock(mutex_);
      if (request->is_over || bytes.empty()) return;
      if (request->pieces.empty()) {
        request->left_over.insert(request->left_over.end(), bytes.begin(), bytes.end());
        return;
      }
      piece = request->pieces.front();
      access = request->access;
    }
    if (access) piece->Tell(*access);
    const uint64_t left = piece->range_.end() - request->at;
    const auto given = bytes.first(static_cast<size_t>(std::min<uint64_t>(left, bytes.size())));
    piece->Give(given);
    bytes = bytes.subspan(given.size());
    bool is_held = false;
    {
      const std::lock_guard lock(mutex_);
      // Taken out meanwhile: then the request has ended.
      if (request->is_over) return;
      request->at += given.size();
      if (request->at < piece->range_.end()) continue;
      request->pieces.pop_front();
      is_held = request->pieces.empty() && request->at < request->end;
      if (request->has_ended && request->at == request->end) Forget(request);
    }
    if (is_held) Hold(request);
    piece->End(absl::OkStatus());
  }
}

void LongReads::Core::Resume(const RequestPtr& request) {
  std::vector<std::byte> left_over;
  std::shared_ptr<PacedControl> control;
  {
    const std::lock_guard lock(mutex_);
    left_over.swap(request->left_over);
    control = request->control.lock();
  }
  OnData(request, left_over);
  if (control) control->GoOn();
}

void LongReads::Core::Hold(const RequestPtr& request) {
  uint64_t hold = 0;
  bool is_asked = false;
  {
    const std::lock_guard lock(mutex_);
    hold = ++request->holds;
    is_asked = request->is_fill && IsAskedFor(PastOf(request->stream).rows, request->at);
  }
  // Nobody goes on with what was asked for before.
  if (is_asked) return GiveUp(request, hold);
  parts_.after(kHeldMax, [self = shared_from_this(), request, hold] { self->GiveUp(request, hold); });
}

void LongReads::Core::GiveUp(const RequestPtr& request, uint64_t hold) {
  std::shared_ptr<PacedControl> control;
  {
    const std::lock_guard lock(mutex_);
    if (request->is_over || request->holds != hold || !request->pieces.empty()) return;
    NoteWorth(*request);
    Forget(request);
    control = request->control.lock();
  }
  if (control) control->Cancel();
}

void LongReads::Core::OnDone(const RequestPtr& request, absl::Status status) {
  std::vector<PiecePtr> left;
  bool has_begun = false;
  {
    const std::lock_guard lock(mutex_);
    if (request->is_over) return;
    // What came last may still wait for who wants it.
    request->has_ended = true;
    if (status.ok() && !request->left_over.empty()) return;
    NoteWorth(*request);
    Forget(request);
    left.assign(request->pieces.begin(), request->pieces.end());
    request->pieces.clear();
    has_begun = !left.empty() && (request->at > left.front()->range_.offset ||
                                  (request->at == request->first && !IsOfTheAnswer(status)));
  }
  if (left.empty()) return;
  if (absl::IsCancelled(status)) {
    for (const PiecePtr& piece : left) piece->End(status);
    return;
  }
  // The first has had its share of it, be it that nothing came; its own time is not over yet.
  if (has_begun) {
    if (absl::IsDeadlineExceeded(status)) status = absl::UnavailableError(status.message());
    left.front()->End(std::move(status));
    left.erase(left.begin());
  }
  AskAlone(left);
}

// ------------------------------------------------------------------------------------- fewer are wanted

// A reader waits for it now. REQUIRES: not from a callback of `piece`
void LongReads::Core::Raise(const PiecePtr& piece, FetchClass fetch_class) {
  std::shared_ptr<FetchControl> control;
  std::vector<PiecePtr> behind;
  {
    const std::lock_guard lock(mutex_);
    const RequestPtr request = RequestOf(piece);
    if (!request) {
      control = piece->alone_.lock();
    } else {
      piece->read_.fetch_class = std::min(piece->read_.fetch_class, fetch_class);
      const uint64_t before = piece->range_.offset - std::min(request->at, piece->range_.offset);
      const uint64_t before_max = request->is_fill ? 0 : parts_.limits.reader_bytes_max;
      if (before > before_max && fetch_class == FetchClass::kDemand) {
        behind = CutAt(*request, piece);
      } else {
        control = request->control.lock();
      }
    }
  }
  if (control) control->Raise(fetch_class);
  AskAlone(behind);
}

void LongReads::Core::TakeOut(const PiecePtr& piece, absl::Status why) {
  std::shared_ptr<FetchControl> control;
  std::vector<PiecePtr> behind;
  RequestPtr request;
  {
    const std::lock_guard lock(mutex_);
    piece->is_cancelled_ |= absl::IsCancelled(why);
    request = RequestOf(piece);
    if (!request) {
      // Its own request has its deadline.
      if (absl::IsCancelled(why)) control = piece->alone_.lock();
    } else {
      behind = CutAt(*request, piece);
      behind.erase(behind.begin());
      if (request->pieces.empty()) {
        NoteWorth(*request);
        Forget(request);
        control = request->control.lock();
      }
    }
  }
  if (request) EndLater(piece, std::move(why));
  if (control) control->Cancel();
  AskAlone(behind);
}

// On the answers' thread, when the task has run; a client that is stopped drops it at once.
void LongReads::Core::EndLater(const PiecePtr& piece, absl::Status status) {
  std::shared_ptr<void> ending(nullptr, [piece, status = std::move(status)](void*) { piece->End(status); });
  parts_.after(Duration(0), [ending = std::move(ending)] {});
}

// REQUIRES: mutex_ is held; so do all that follow
LongReads::Core::RequestPtr LongReads::Core::RequestOf(const PiecePtr& piece) const {
  const auto found = std::find_if(requests_.begin(), requests_.end(), [&](const RequestPtr& request) {
    return std::find(request->pieces.begin(), request->pieces.end(), piece) != request->pieces.end();
  });
  return found == requests_.end() ? nullptr : *found;
}

// From the piece on, none is the request's any more.
std::vector<LongReads::Core::PiecePtr> LongReads::Core::CutAt(Request& request, const PiecePtr& piece) {
  const auto first = std::find(request.pieces.begin(), request.pieces.end(), piece);
  std::vector<PiecePtr> cut(first, request.pieces.end());
  request.pieces.erase(first, request.pieces.end());
  request.tail = piece->range_.offset;
  return cut;
}

void LongReads::Core::Forget(const RequestPtr& request) {
  request->is_over = true;
  std::erase(requests_, request);
}

void LongReads::Core::NoteWorth(const Request& request) {
  const bool has_paid = request.went_on >= kPaidFrom || request.at == request.end;
  if (parts_.on_over) parts_.on_over(has_paid ? LongReadResult::kPaid : LongReadResult::kInVain);
  Past& past = PastOf(request.stream);
  past.pass_over = has_paid ? 0 : past.next;
  past.next = has_paid ? 1 : std::min(2 * past.next, kPassedOverMax);
}

LongReads::Core::Past& LongReads::Core::PastOf(const Stream& stream) {
  if (pasts_.size() >= kStreamsMax && !pasts_.contains(stream)) pasts_.clear();
  return pasts_[stream];
}

LongReads::LongReads(Parts parts) : core_(std::make_shared<Core>(std::move(parts))) {}
LongReads::~LongReads() = default;

LongReads::Begun LongReads::Read(BlobRead read, ByteRange run) {
  return core_->Read(std::move(read), run);
}

size_t LongReads::under_way() const {
  return core_->under_way();
}

}  // namespace sluice::p2p
