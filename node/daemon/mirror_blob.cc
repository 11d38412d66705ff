#include "node/daemon/mirror_blob.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

// What is read at once: little at first, so that it comes soon.
constexpr uint64_t kStepFirst = 256 << 10;
constexpr uint64_t kStepMax = 4 << 20;

// A pull is for later: a mount's reader waits for bytes now.
constexpr FetchClass kPullClass = FetchClass::kHint;
// But for an answer to begin a runtime waits only so long, and then asks the registry for all of it.
constexpr FetchClass kBeginClass = FetchClass::kDemand;

using OnPart = api::HttpParts::OnPart;

bool IsRefusal(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
}

// Reads a range step by step. Whoever holds it gives it up by End.
class Reading : public std::enable_shared_from_this<Reading> {
 public:
  using RightPtr = std::shared_ptr<const CachedMirrorBlob::Right>;
  Reading(CachedMirrorBlob::Parts parts, std::shared_ptr<Blob> blob, ByteRange range, RightPtr right)
      : parts_(parts), blob_(std::move(blob)), right_(std::move(right)), left_(range) {}

  // The next step; one at a time.
  void Next(Duration timeout, OnPart on_part) {
    const uint64_t to_boundary = step_ - left_.offset % step_;
    const ByteRange step{left_.offset, std::min(left_.length, to_boundary)};
    left_ = {step.end(), left_.length - step.length};
    step_ = std::min(2 * step_, kStepMax);
    const std::lock_guard lock(mutex_);
    if (ended_) return std::move(on_part)(absl::CancelledError("the client has gone"));
    read_ = parts_.cache.Read({.blob = blob_->key(),
                               .range = step,
                               .fetch_class = std::exchange(fetch_class_, kPullClass),
                               .deadline = parts_.clock.Now() + timeout,
                               .asker = Asker::kRuntime,
                               .grant = right_->grant},
                              [self = shared_from_this(), step,
                               on_part = std::move(on_part)](absl::StatusOr<ReadResult> result) mutable {
                                if (IsRefusal(result.status())) self->right_->on_refused();
                                if (!result.ok()) return std::move(on_part)(result.status());
                                self->parts_.io.Post([self, step, lease = std::move(result->lease),
                                                      on_part = std::move(on_part)]() mutable {
                                  std::move(on_part)(self->PartOf(step, std::move(lease)));
                                });
                              });
  }

  void End() {
    std::optional<ReadId> read;
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      read = read_;
    }
    if (read) parts_.cache.StopRead(*read);
  }

 private:
  absl::StatusOr<api::FileSpan> PartOf(ByteRange range, Blob::Lease lease) {
    struct Sending {
      Blob::Lease lease;
      std::shared_ptr<const BlobFile> file;
    };
    absl::StatusOr<std::shared_ptr<const BlobFile>> file = parts_.store.OpenFile(blob_->key());
    if (!file.ok()) return file.status();
    // A file that was lost took its chunks back.
    if (!blob_->presence().AllPresent(blob_->geometry().Covering(range)) || blob_->refused())
      return absl::UnavailableError("it was here, and is gone");
    parts_.store.Touch(blob_->key());
    Counter& sent = parts_.telemetry.mirror_sent_bytes;
    auto sending = std::make_shared<Sending>(Sending{std::move(lease), *std::move(file)});
    const int fd = sending->file->descriptor();
    return api::FileSpan{
        fd,     range.offset, range.length, std::move(sending), [&sent](uint64_t bytes) { sent.Add(bytes); },
        nullptr};
  }

  const CachedMirrorBlob::Parts parts_;
  const std::shared_ptr<Blob> blob_;
  const RightPtr right_;
  ByteRange left_;  // owned by who calls Next
  uint64_t step_ = kStepFirst;
  FetchClass fetch_class_ = kBeginClass;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::optional<ReadId> read_;
  bool ended_ = false;
};

class CachedParts final : public api::HttpParts {
 public:
  CachedParts(std::shared_ptr<Reading> reading, std::unique_ptr<BackgroundFill::Hold> filling,
              Duration timeout, api::FileSpan first)
      : reading_(std::move(reading)),
        filling_(std::move(filling)),
        timeout_(timeout),
        first_(std::move(first)) {}
  ~CachedParts() override { reading_->End(); }

  void Next(OnPart on_part) override {
    if (first_) return std::move(on_part)(*std::exchange(first_, std::nullopt));
    reading_->Next(timeout_, std::move(on_part));
  }

 private:
  const std::shared_ptr<Reading> reading_;
  const std::unique_ptr<BackgroundFill::Hold> filling_;  // for as long as somebody pulls it
  const Duration timeout_;
  std::optional<api::FileSpan> first_;
};

}  // namespace

void CachedMirrorBlob::Open(ByteRange range, OnOpen on_open) {
  parts_.io.Post([self = shared_from_this(), range, on_open = std::move(on_open)]() mutable {
    absl::StatusOr<std::shared_ptr<Blob>> blob = self->parts_.store.Open(self->spec_);
    if (!blob.ok() || (*blob)->refused()) return std::move(on_open)(nullptr);
    const Finding& finding = self->finding_;
    self->parts_.store.NoteAccess((*blob)->key(), self->spec_.origins.front(), finding.access, finding.at_ms);
    // Who goes on with a pull that broke off asks for the rest.
    const bool whole = 2 * range.length >= self->spec_.size && (*blob)->present_bytes() < self->spec_.size;
    auto filling = whole ? std::make_unique<BackgroundFill::Hold>(self->parts_.fills, (*blob)->key(),
                                                                  kPullClass, self->right_->grant)
                         : nullptr;
    const auto reading = std::make_shared<Reading>(self->parts_, *std::move(blob), range, self->right_);
    reading->Next(self->limits_.first_part,
                  [reading, filling = std::move(filling), timeout = self->limits_.next_part,
                   on_open = std::move(on_open)](absl::StatusOr<api::FileSpan> first) mutable {
                    if (!first.ok()) return std::move(on_open)(nullptr);
                    std::move(on_open)(std::make_unique<CachedParts>(reading, std::move(filling), timeout,
                                                                     *std::move(first)));
                  });
  });
}

}  // namespace sluice
