#include "api/http/blob_route.h"

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/byte_range.h"
#include "api/http/chunk_request.h"

namespace sluice::api {
namespace {

constexpr int kPresentRunsMax = 32;  // named in Sluice-Present

std::string RunsText(const ChunkGeometry& geometry, const std::vector<ChunkSpan>& runs) {
  std::string text = "bytes=";
  for (size_t i = 0; i < runs.size(); ++i) {
    const ByteRange range = geometry.RangeOf(runs[i]);
    absl::StrAppend(&text, i == 0 ? "" : ",", range.offset, "-", range.end() - 1);
  }
  return text;
}

// Keeps a blob from being evicted and its file from being closed while it is sent.
struct Serving {
  Blob::Lease lease;
  std::shared_ptr<const BlobFile> file;
  std::shared_ptr<const void> place;
  std::shared_ptr<const void> whole_place;
};

}  // namespace

void BlobRoute::OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
                       HttpResponder responder) {
  const std::shared_ptr<Blob> blob = parts_.store.FindBest(digest);
  const OriginAccess access = blob ? parts_.ledger.AccessOf(blob->key(), origin) : OriginAccess::kUnknown;
  if (!blob || blob->refused() || !MayBeGiven(access, parts_.trust))
    return parts_.answers->Send(NotHere(), std::move(responder));
  // Before presence is looked at, so that no eviction comes in between.
  Blob::Lease lease(blob);
  const ChunkGeometry& geometry = blob->geometry();
  const std::string tag = EntityTag(digest);

  // A range means something to GET alone, and only if it is of what the client has: RFC 9110 sections 14.2
  // and 13.1.5.
  const std::string_view if_range = request.Header("If-Range");
  const bool ranged = request.method == HttpMethod::kGet && (if_range.empty() || if_range == tag);
  const RequestedRange wanted =
      ParseRange(ranged ? request.Header("Range") : std::string_view(), geometry.size());
  const ByteRange* const part = std::get_if<ByteRange>(&wanted);
  const ByteRange range = part ? *part : ByteRange{0, geometry.size()};

  const bool unsatisfiable = std::holds_alternative<UnsatisfiableRange>(wanted);
  const ChunkSpan span = geometry.Covering(range);
  if (!unsatisfiable && !parts_.reader.AllProven(*blob, span))
    return parts_.answers->Send(PartlyHere(*blob, span), std::move(responder));

  HttpResponse response;
  if (!request.Header("If-None-Match").empty() && MatchesTag(request.Header("If-None-Match"), tag)) {
    response.status = 304;
  } else if (unsatisfiable) {
    response = ErrorResponse(416, "RANGE_INVALID", "not one range within the blob");
    response.headers.emplace_back("Content-Range", absl::StrCat("bytes */", geometry.size()));
  } else {
    response.status = part ? 206 : 200;
    response.content_type = "application/octet-stream";
    if (part) {
      response.headers.emplace_back(
          "Content-Range", absl::StrCat("bytes ", range.offset, "-", range.end() - 1, "/", geometry.size()));
    }
    if (const std::optional<Digest> root = blob->facts()->root)
      response.headers.emplace_back("Sluice-Verified", root->ToString());
    response.headers.emplace_back("Docker-Content-Digest", digest.ToString());
    SayPublic(response, parts_.trust, IsPublic(access), parts_.ledger.PublicAge(blob->key(), origin));
  }
  response.headers.emplace_back("Accept-Ranges", "bytes");
  response.headers.emplace_back("ETag", tag);
  if (response.status >= 300) return parts_.answers->Send(std::move(response), std::move(responder));
  WholePlaces::Place whole_place;
  const absl::StatusOr<PeerAsker> asker = ParseAsker(request);
  if (!asker.ok())
    return parts_.answers->Send(ErrorResponse(absl::IsPermissionDenied(asker.status()) ? 403 : 400,
                                              "UNSUPPORTED", std::string(asker.status().message())),
                                std::move(responder));
  if (parts_.whole_places && !asker->name.empty() && !part && request.method == HttpMethod::kGet) {
    auto answer = parts_.whole_places->Ask(digest, {asker->name, asker->tried});
    if (const auto* const busy = std::get_if<WholePlaces::Busy>(&answer))
      return parts_.answers->Send(ComeAgain(busy->retry, busy->helpers), std::move(responder));
    whole_place = std::get<WholePlaces::Place>(std::move(answer));
  }
  SendBlob(std::move(lease), range, std::move(whole_place), std::move(response), std::move(responder));
}

void BlobRoute::SendBlob(Blob::Lease lease, ByteRange range, WholePlaces::Place whole_place,
                         HttpResponse response, HttpResponder responder) {
  std::shared_ptr<const void> place = parts_.places->Take();
  if (!place) {
    HttpResponse busy = ErrorResponse(503, "TOOMANYREQUESTS", "too many blobs are being sent");
    busy.headers.emplace_back("Retry-After", "1");
    return parts_.answers->Send(std::move(busy), std::move(responder));
  }
  parts_.io.Post([self = shared_from_this(),
                  serving = std::make_shared<Serving>(
                      Serving{std::move(lease), nullptr, std::move(place), std::move(whole_place.sending)}),
                  on_taken = std::move(whole_place.on_taken), range, response = std::move(response),
                  responder = std::move(responder)]() mutable {
    const Blob& blob = serving->lease.blob();
    absl::StatusOr<std::shared_ptr<const BlobFile>> file = self->parts_.reader.OpenFile(blob.key());
    // A file that was lost took its chunks back.
    if (!file.ok() || !self->parts_.reader.AllProven(blob, blob.geometry().Covering(range)))
      return self->parts_.answers->Send(NotHere(), std::move(responder));
    serving->file = *std::move(file);
    // A mount waits for what is asked for by name.
    const SendUrgency urgency = serving->whole_place ? SendUrgency::kDemand : SendUrgency::kFill;
    FileSpan span{serving->file->descriptor(), range.offset, range.length, serving, nullptr,
                  std::move(on_taken),         urgency};
    Counter& sent = self->parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
    span.on_sent = [&sent](uint64_t bytes) { sent.Add(bytes); };
    response.file = std::move(span);
    self->parts_.answers->Send(std::move(response), std::move(responder));
  });
}

HttpResponse BlobRoute::PartlyHere(const Blob& blob, ChunkSpan asked) {
  HttpResponse response = NotHere();
  std::vector<ChunkSpan> runs;
  for (ChunkIndex index = asked.first; index < asked.end(); index = index.next()) {
    if (!blob.presence().IsPresent(index) || !parts_.reader.AllProven(blob, {index, 1})) continue;
    if (!runs.empty() && runs.back().end() == index) {
      ++runs.back().count;
    } else if (runs.size() == kPresentRunsMax) {
      break;
    } else {
      runs.push_back({index, 1});
    }
  }
  if (!runs.empty()) response.headers.emplace_back("Sluice-Present", RunsText(blob.geometry(), runs));
  return response;
}

}  // namespace sluice::api
