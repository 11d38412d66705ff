#include "api/http/chunk_route.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "api/http/flow_parts.h"

namespace sluice::api {
namespace {

// To come again after a chunk was taken back just when it was to be sent, or when too many fills are
// answered.
constexpr Duration kRetrySoon = std::chrono::milliseconds(5);
constexpr Duration kRetryFill = std::chrono::milliseconds(100);

// Everybody who could stand in for this node keeps to what the origin has asked of it.
HttpHeaderList PatienceHeaders(bool throttled) {
  if (!throttled) return {};
  return {{"Sluice-Origin", "throttled"}};
}

HttpResponse AskYourself(const PeerRefusal& refusal, PeerTrust trust) {
  HttpResponse response = ErrorResponse(403, "DENIED", "ask-yourself");
  if (refusal.takes_credentials) SayPublic(response, trust, /*is_public=*/false);
  return response;
}

// For a member, which reads the head alone: most of what it asks for is not here, or not now.
HttpResponse WithoutWords(HttpResponse response) {
  response.content_type.clear();
  response.body.clear();
  return response;
}

HttpResponse ResponseTo(const PeerRefusal& refusal, PeerTrust trust) {
  switch (refusal.why) {
    case PeerRefusal::Why::kAbsent:
      return WithoutWords(NotHere());
    case PeerRefusal::Why::kBusy:
      return WithoutWords(ComeAgain(refusal.retry, refusal.helpers));
    case PeerRefusal::Why::kAskYourself:
      return AskYourself(refusal, trust);
    case PeerRefusal::Why::kContradicted:
      return ErrorResponse(409, "CLAIM_INVALID", "the blob is not what Sluice-Blob says");
    case PeerRefusal::Why::kNoRoom:
      return ErrorResponse(507, "UNAVAILABLE", "this node has no room for it; ask the next");
  }
  return WithoutWords(NotHere());
}

}  // namespace

// The promise to answer, held from several threads. Thread-safe.
class ChunkRoute::Reply : public std::enable_shared_from_this<Reply> {
 public:
  // `place` is a fill's.
  Reply(std::shared_ptr<ChunkRoute> route, const PeerBlobRequest& request, std::shared_ptr<const void> place,
        HttpResponder responder)
      : route_(std::move(route)),
        role_(request.role),
        range_(request.range),
        origin_(request.claim.spec.origins.front()),
        place_(std::move(place)),
        responder_(std::move(responder)) {}

  ByteRange range() const { return range_; }
  PeerRole role() const { return role_; }
  bool IsThrottled() const { return route_->parts_.blobs.IsThrottled(origin_); }

  void GiveUpWhenGone(Task give_up) {
    const std::lock_guard lock(mutex_);
    if (responder_) responder_->OnGone(std::move(give_up));
  }
  // Says so now, and again until it is answered.
  void SayWaiting() {
    HttpHeaderList headers = PatienceHeaders(IsThrottled());
    const std::lock_guard lock(mutex_);
    if (!responder_) return;
    responder_->Interim(102, std::move(headers));
    route_->parts_.io.PostAt(route_->parts_.clock.Now() + kInterimEvery, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->SayWaiting();
    });
  }
  void Send(HttpResponse response) {
    std::optional<HttpResponder> responder;
    {
      const std::lock_guard lock(mutex_);
      responder_.swap(responder);
    }
    if (responder) route_->parts_.answers->Send(std::move(response), *std::move(responder), role_);
  }
  const std::shared_ptr<const void>& place() const { return place_; }

 private:
  const std::shared_ptr<ChunkRoute> route_;
  const PeerRole role_;
  const ByteRange range_;
  const BlobOrigin origin_;
  const std::shared_ptr<const void> place_;  // null: demand
  std::mutex mutex_;
  std::optional<HttpResponder> responder_;  // guarded by mutex_; nothing: answered
};

void ChunkRoute::OnChunk(PeerBlobRequest request, HttpResponder responder) {
  const bool fill = request.fetch_class != FetchClass::kDemand;
  std::shared_ptr<const void> place = fill ? parts_.places->Take() : nullptr;
  if (fill && !place)
    return parts_.answers->Send(WithoutWords(ComeAgain(kRetryFill, {})), std::move(responder), request.role);
  const auto reply =
      std::make_shared<Reply>(shared_from_this(), request, std::move(place), std::move(responder));
  Task give_up = parts_.blobs.Ask(
      std::move(request),
      [weak = std::weak_ptr<Reply>(reply)] {
        if (const auto waiting = weak.lock()) waiting->SayWaiting();
      },
      [self = shared_from_this(), reply](PeerBlobAnswer answer) {
        self->OnAnswer(reply, std::move(answer));
      });
  reply->GiveUpWhenGone(std::move(give_up));
}

void ChunkRoute::OnAnswer(const std::shared_ptr<Reply>& reply, PeerBlobAnswer answer) {
  if (const PeerRefusal* const refusal = std::get_if<PeerRefusal>(&answer)) {
    HttpResponse response = ResponseTo(*refusal, parts_.trust);
    if (refusal->why == PeerRefusal::Why::kBusy)
      for (auto& header : PatienceHeaders(reply->IsThrottled()))
        response.headers.push_back(std::move(header));
    return reply->Send(std::move(response));
  }
  parts_.io.Post(
      [self = shared_from_this(), reply, bytes = std::get<PeerBytes>(std::move(answer))]() mutable {
        self->SendBytes(reply, std::move(bytes));
      });
}

void ChunkRoute::SendBytes(const std::shared_ptr<Reply>& reply, PeerBytes bytes) {
  // What keeps the file there while it is sent.
  struct Sending {
    PeerBytes bytes;
    std::shared_ptr<const BlobFile> file;
    std::shared_ptr<const void> place;
  };
  if (bytes.flow) return SendFlow(reply, std::move(bytes));
  const ByteRange range = reply->range();
  const Blob& blob = bytes.lease.blob();
  absl::StatusOr<std::shared_ptr<const BlobFile>> file = parts_.reader.OpenFile(blob.key());
  const ChunkSpan span = blob.geometry().Covering(range);
  // A file that was lost took its chunks back.
  if (!file.ok() || !blob.presence().AllPresent(span) || blob.refused())
    return reply->Send(
        WithoutWords(reply->role() != PeerRole::kPresentOnly ? ComeAgain(kRetrySoon, {}) : NotHere()));

  HttpResponse response = ResponseWith(bytes, range);
  Task on_taken = std::move(bytes.on_taken);
  auto sending = std::make_shared<Sending>(Sending{std::move(bytes), *std::move(file), reply->place()});
  const int fd = sending->file->descriptor();
  Counter& sent = parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
  response.file = FileSpan{fd,
                           range.offset,
                           range.length,
                           std::move(sending),
                           [&sent](uint64_t count) { sent.Add(count); },
                           std::move(on_taken),
                           reply->place() ? SendUrgency::kFill : SendUrgency::kDemand};
  reply->Send(std::move(response));
}

// All but the bytes.
HttpResponse ChunkRoute::ResponseWith(const PeerBytes& bytes, ByteRange range) const {
  const Blob& blob = bytes.lease.blob();
  HttpResponse response;
  response.status = 206;
  response.content_type = "application/octet-stream";
  response.headers.emplace_back("Content-Range", absl::StrCat("bytes ", range.offset, "-", range.end() - 1,
                                                              "/", blob.geometry().size()));
  const std::optional<Digest> root = blob.facts()->root;
  if (root && !bytes.flow && parts_.reader.AllProven(blob, blob.geometry().Covering(range))) {
    response.headers.emplace_back("Sluice-Verified", root->ToString());
  } else if (!bytes.passed_on_by.empty()) {
    response.headers.emplace_back("Sluice-Passed-On", absl::StrJoin(bytes.passed_on_by, ","));
  }
  if (bytes.flow) response.headers.emplace_back("Sluice-Coming", "1");
  SayPublic(response, parts_.trust, bytes.is_public, bytes.public_age);
  return response;
}

// Nothing of it is proven yet, and a file that holds it may never come to be.
void ChunkRoute::SendFlow(const std::shared_ptr<Reply>& reply, PeerBytes bytes) {
  struct Sending {
    PeerBytes bytes;
    std::shared_ptr<const void> place;
  };
  const ByteRange range = reply->range();
  const ChunkGeometry& geometry = bytes.lease.blob().geometry();
  HttpResponse response = ResponseWith(bytes, range);
  Counter& sent = parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
  FlowParts::Content content;
  content.flow = bytes.flow;
  content.first = range.offset - geometry.RangeOf(geometry.Covering(range).first).offset;
  content.length = range.length;
  content.on_taken = std::move(bytes.on_taken);
  content.on_sent = [&sent, &passed_on = parts_.telemetry.passed_on_bytes](uint64_t count) {
    sent.Add(count);
    passed_on.Add(count);
  };
  content.urgency = reply->place() ? SendUrgency::kFill : SendUrgency::kDemand;
  content.holder = std::make_shared<const Sending>(Sending{std::move(bytes), reply->place()});
  response.parts_length = range.length;
  response.parts = std::make_unique<FlowParts>(std::move(content));
  reply->Send(std::move(response));
}

}  // namespace sluice::api
