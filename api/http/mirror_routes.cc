#include "api/http/mirror_routes.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "api/http/byte_range.h"
#include "api/http/peer_response.h"
#include "api/http/registry_path.h"

namespace sluice::api {
namespace {

using Kind = MirrorRequest::Kind;

std::optional<Kind> KindOf(std::string_view text) {
  if (text == "manifests") return Kind::kManifest;
  if (text == "blobs") return Kind::kBlob;
  if (text == "referrers") return Kind::kReferrers;
  return std::nullopt;
}

MirrorResult ResultOf(unsigned status) {
  if (status < 400 || status == 416) return MirrorResult::kServed;
  if (status == 401) return MirrorResult::kChallenged;
  if (status == 403) return MirrorResult::kDenied;
  if (status == 404) return MirrorResult::kAbsent;
  if (status == 503) return MirrorResult::kBusy;
  return MirrorResult::kMalformed;
}

// The same whatever is cached.
HttpResponse ResponseTo(const MirrorRefusal& refusal, Kind kind) {
  switch (refusal.why) {
    case MirrorRefusal::Why::kAbsent:
      break;
    case MirrorRefusal::Why::kChallenged: {
      HttpResponse response = ErrorResponse(401, "UNAUTHORIZED", "the registry wants to know who asks");
      response.headers.emplace_back("WWW-Authenticate", refusal.challenge);
      return response;
    }
    case MirrorRefusal::Why::kDenied:
      return ErrorResponse(403, "DENIED", "the registry refuses this to who asks");
    case MirrorRefusal::Why::kForbidden:
      return ErrorResponse(403, "DENIED", "the policy of this node refuses the image; its log says why");
    case MirrorRefusal::Why::kBusy: {
      HttpResponse response = ErrorResponse(503, "TOOMANYREQUESTS", "too much is being asked for");
      response.headers.emplace_back("Retry-After", "1");
      return response;
    }
    case MirrorRefusal::Why::kOriginAway: {
      HttpResponse response = ErrorResponse(503, "UNAVAILABLE",
                                            "the registry does not answer, and what it last said of who may "
                                            "have this is too old; ask again when it does");
      response.headers.emplace_back("Retry-After", "5");
      return response;
    }
  }
  const char* const code = kind == Kind::kBlob ? "BLOB_UNKNOWN" : "MANIFEST_UNKNOWN";
  return ErrorResponse(404, code, "not to be had through this node; ask the registry");
}

// Runtimes that send no ns= have the registry before the repository, as in an image's reference.
void TakeRegistryFromName(BlobOrigin& origin) {
  const size_t slash = origin.repository.find('/');
  if (slash == std::string::npos || origin.repository.find('.') > slash) return;
  origin.registry = origin.repository.substr(0, slash);
  origin.repository.erase(0, slash + 1);
}

class MirrorRoutes : public std::enable_shared_from_this<MirrorRoutes> {
 public:
  MirrorRoutes(MirrorContent& content, Telemetry& telemetry) : content_(content), telemetry_(telemetry) {}

  void OnRegistry(const HttpRequest& request, HttpResponder responder);

 private:
  // What of a request matters once the content is there.
  struct Conditions {
    bool is_get = false;
    std::string range;
    std::string if_range;
    std::string if_none_match;
  };
  void OnBlob(MirrorRequest wanted, Conditions conditions, HttpResponder responder);
  void GiveBlob(const std::shared_ptr<MirrorBlob>& blob, const Digest& digest, const Conditions& conditions,
                HttpResponder responder);
  HttpResponse DocumentResponse(MirrorDocument document, const Conditions& conditions) const;
  void Send(HttpResponse response, HttpResponder responder) const;

  MirrorContent& content_;
  Telemetry& telemetry_;
};

void MirrorRoutes::OnRegistry(const HttpRequest& request, HttpResponder responder) {
  if (request.path == "/v2/") {
    HttpResponse response;
    response.content_type = "application/json";
    response.body = "{}\n";
    return Send(std::move(response), std::move(responder));
  }
  const std::optional<RegistryPath> path = ParseRegistryPath(request.path);
  const std::optional<Kind> kind = path ? KindOf(path->kind) : std::nullopt;
  if (!kind)
    return Send(ErrorResponse(404, "UNSUPPORTED", "there is nothing at this path"), std::move(responder));
  MirrorRequest wanted{*kind,
                       {Parameter(request, "ns"), path->name},
                       path->reference,
                       std::string(request.Header("Authorization"))};
  if (!IsRepositoryName(path->name))
    return Send(ErrorResponse(400, "NAME_INVALID", "malformed repository name"), std::move(responder));
  if (wanted.origin.registry.empty()) TakeRegistryFromName(wanted.origin);
  // No runtime is to be stopped by a mirror that was set up for a host that says neither.
  if (wanted.origin.registry.empty())
    return Send(ErrorResponse(404, "NAME_UNKNOWN", "ns=REGISTRY must say whose mirror is asked"),
                std::move(responder));
  if (!IsRegistryName(wanted.origin.registry))
    return Send(ErrorResponse(400, "NAME_INVALID", "ns=REGISTRY is malformed"), std::move(responder));
  const bool is_digest = Digest::Parse(path->reference).ok();
  if (!is_digest && !(*kind == Kind::kManifest && IsTag(path->reference)))
    return Send(ErrorResponse(400, "DIGEST_INVALID", "malformed digest or tag"), std::move(responder));

  Conditions conditions{request.method == HttpMethod::kGet, std::string(request.Header("Range")),
                        std::string(request.Header("If-Range")),
                        std::string(request.Header("If-None-Match"))};
  if (*kind == Kind::kBlob) return OnBlob(std::move(wanted), std::move(conditions), std::move(responder));
  content_.Document(std::move(wanted), [self = shared_from_this(), kind = *kind,
                                        conditions = std::move(conditions), responder = std::move(responder)](
                                           std::variant<MirrorRefusal, MirrorDocument> answer) mutable {
    if (const MirrorRefusal* const refusal = std::get_if<MirrorRefusal>(&answer))
      return self->Send(ResponseTo(*refusal, kind), std::move(responder));
    self->Send(self->DocumentResponse(std::get<MirrorDocument>(std::move(answer)), conditions),
               std::move(responder));
  });
}

HttpResponse MirrorRoutes::DocumentResponse(MirrorDocument document, const Conditions& conditions) const {
  HttpResponse response;
  const std::string tag = EntityTag(document.digest);
  response.content_type = std::move(document.media_type);
  if (!conditions.if_none_match.empty() && MatchesTag(conditions.if_none_match, tag)) {
    response.status = 304;
  } else {
    response.body = std::move(document.body);
  }
  response.headers.emplace_back("Docker-Content-Digest", document.digest.ToString());
  response.headers.emplace_back("ETag", tag);
  return response;
}

void MirrorRoutes::OnBlob(MirrorRequest wanted, Conditions conditions, HttpResponder responder) {
  const Digest digest = *Digest::Parse(wanted.reference);
  content_.Blob(std::move(wanted),
                [self = shared_from_this(), digest, conditions = std::move(conditions),
                 responder = std::move(responder)](
                    std::variant<MirrorRefusal, std::shared_ptr<MirrorBlob>> answer) mutable {
                  if (const MirrorRefusal* const refusal = std::get_if<MirrorRefusal>(&answer))
                    return self->Send(ResponseTo(*refusal, Kind::kBlob), std::move(responder));
                  self->GiveBlob(std::get<std::shared_ptr<MirrorBlob>>(answer), digest, conditions,
                                 std::move(responder));
                });
}

void MirrorRoutes::GiveBlob(const std::shared_ptr<MirrorBlob>& blob, const Digest& digest,
                            const Conditions& conditions, HttpResponder responder) {
  const uint64_t size = blob->size();
  const std::string tag = EntityTag(digest);
  // A range means something to GET alone, and only if it is of what the client has: RFC 9110 sections 14.2
  // and 13.1.5.
  const bool ranged = conditions.is_get && (conditions.if_range.empty() || conditions.if_range == tag);
  const RequestedRange asked = ParseRange(ranged ? conditions.range : std::string(), size);
  HttpResponse response;
  response.content_type = "application/octet-stream";
  response.headers.emplace_back("Accept-Ranges", "bytes");
  response.headers.emplace_back("ETag", tag);
  response.headers.emplace_back("Docker-Content-Digest", digest.ToString());
  if (!conditions.if_none_match.empty() && MatchesTag(conditions.if_none_match, tag)) {
    response.status = 304;
    return Send(std::move(response), std::move(responder));
  }
  if (std::holds_alternative<UnsatisfiableRange>(asked)) {
    response = ErrorResponse(416, "RANGE_INVALID", "not one range within the blob");
    response.headers.emplace_back("Content-Range", absl::StrCat("bytes */", size));
    return Send(std::move(response), std::move(responder));
  }
  const ByteRange* const part = std::get_if<ByteRange>(&asked);
  const ByteRange range = part ? *part : ByteRange{0, size};
  if (part) {
    response.status = 206;
    response.headers.emplace_back("Content-Range",
                                  absl::StrCat("bytes ", range.offset, "-", range.end() - 1, "/", size));
  }
  response.parts_length = range.length;
  if (!conditions.is_get) return Send(std::move(response), std::move(responder));
  blob->Open(range, [self = shared_from_this(), response = std::move(response),
                     responder = std::move(responder)](std::unique_ptr<HttpParts> parts) mutable {
    if (!parts) return self->Send(ResponseTo({}, Kind::kBlob), std::move(responder));
    response.parts = std::move(parts);
    self->Send(std::move(response), std::move(responder));
  });
}

void MirrorRoutes::Send(HttpResponse response, HttpResponder responder) const {
  telemetry_.mirror_requests[static_cast<size_t>(ResultOf(response.status))].Add();
  response.headers.emplace_back("Docker-Distribution-API-Version", "registry/2.0");
  std::move(responder).Answer(std::move(response));
}

}  // namespace

void AddMirrorRoutes(HttpRoutes& routes, MirrorContent& content, Telemetry& telemetry) {
  routes["/v2/"] = [served = std::make_shared<MirrorRoutes>(content, telemetry)](const HttpRequest& request,
                                                                                 HttpResponder responder) {
    served->OnRegistry(request, std::move(responder));
  };
}

}  // namespace sluice::api
