#include "api/http/peer_routes.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "api/http/blob_route.h"
#include "api/http/chunk_request.h"
#include "api/http/chunk_route.h"
#include "api/http/peer_response.h"
#include "api/http/registry_path.h"

namespace sluice::api {
namespace {

constexpr char kPresencePath[] = "/sluice/v1/presence/";

HttpResponse NotInItsName(const absl::Status& status) {
  return ErrorResponse(403, "DENIED", std::string(status.message()));
}

// Takes requests apart, and hands them to what serves them.
class PeerRoutes {
 public:
  explicit PeerRoutes(PeerRoutesParts parts)
      : clock_(parts.clock),
        trust_(parts.trust),
        members_(parts.members),
        holders_(parts.holders),
        answers_(std::make_shared<PeerAnswers>(parts.telemetry, std::move(parts.node_id))),
        places_(std::make_shared<FillPlaces>(parts.fills_max)),
        blobs_(std::make_shared<BlobRoute>(BlobRoute::Parts{parts.store, parts.reader, parts.ledger, parts.io,
                                                            parts.telemetry, answers_, places_, parts.trust,
                                                            parts.whole_places})),
        documents_(std::make_shared<DocumentRoute>(DocumentRoute::Parts{
            parts.documents, parts.io, parts.telemetry, answers_, parts.trust, parts.whole_places})) {
    if (!parts.blobs) return;
    chunks_ = std::make_shared<ChunkRoute>(ChunkRoute::Parts{
        *parts.blobs, parts.reader, parts.clock, parts.io, parts.telemetry, answers_, places_, parts.trust});
  }

  void OnRegistry(const HttpRequest& request, HttpResponder responder);
  void OnRecipe(const HttpRequest& request, HttpResponder responder);
  void OnToken(const HttpRequest& request, HttpResponder responder);
  void OnMembers(const HttpRequest& request, HttpResponder responder);
  void OnHolders(const HttpRequest& request, HttpResponder responder);
  void OnPresence(const HttpRequest& request, HttpResponder responder);

  bool has_members() const { return members_ != nullptr; }
  bool has_holders() const { return holders_ != nullptr; }

 private:
  void OnSentOn(const HttpRequest& request, BlobOrigin origin, std::string digest, HttpResponder responder);
  void RefuseAsker(const absl::Status& status, HttpResponder responder, PeerRole role);
  void OnHome(const HttpRequest& request, const RegistryPath& path, BlobOrigin origin,
              HttpResponder responder);
  void OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
              HttpResponder responder);

  const Clock& clock_;
  const PeerTrust trust_;
  MemberAnswers* const members_;
  HolderAnswers* const holders_;
  const std::shared_ptr<const PeerAnswers> answers_;
  const std::shared_ptr<FillPlaces> places_;
  const std::shared_ptr<BlobRoute> blobs_;
  const std::shared_ptr<DocumentRoute> documents_;
  std::shared_ptr<ChunkRoute> chunks_;  // null: no roles
};

void PeerRoutes::OnRegistry(const HttpRequest& request, HttpResponder responder) {
  if (request.path == "/v2/") {
    HttpResponse response;
    response.content_type = "application/json";
    response.body = "{}\n";
    response.headers.emplace_back("Docker-Distribution-API-Version", "registry/2.0");
    return answers_->Send(std::move(response), std::move(responder));
  }
  const std::optional<RegistryPath> path = ParseRegistryPath(request.path);
  const bool blobs = path && path->kind == "blobs";
  const bool is_home = request.Header("Sluice-Role") == "home";
  if (!path || (!blobs && path->kind != "manifests" && !(is_home && path->kind == "referrers")))
    return answers_->Send(ErrorResponse(404, "UNSUPPORTED", "there is nothing at this path"),
                          std::move(responder));
  if (!IsRepositoryName(path->name))
    return answers_->Send(ErrorResponse(400, "NAME_INVALID", "malformed repository name"),
                          std::move(responder));
  BlobOrigin origin{Parameter(request, "ns"), path->name};
  if (!IsRegistryName(origin.registry)) {
    return answers_->Send(ErrorResponse(400, "NAME_INVALID", "ns=REGISTRY is missing or malformed"),
                          std::move(responder));
  }
  const absl::StatusOr<Digest> digest = Digest::Parse(path->reference);
  if (is_home && (!blobs || !Parameter(request, "part").empty()))
    return OnHome(request, *path, std::move(origin), std::move(responder));
  // What a tag means only the origin can say.
  if (!digest.ok() && !blobs && path->reference.find(':') == std::string::npos)
    return answers_->Send(NotHere(), std::move(responder));
  if (!digest.ok())
    return answers_->Send(ErrorResponse(400, "DIGEST_INVALID", "malformed digest"), std::move(responder));
  if (blobs && Parameter(request, "part") == "whole")
    return OnSentOn(request, std::move(origin), path->reference, std::move(responder));
  if (blobs) return OnBlob(request, origin, *digest, std::move(responder));
  documents_->OnManifest(origin, *digest, std::move(responder));
}

void PeerRoutes::OnHome(const HttpRequest& request, const RegistryPath& path, BlobOrigin origin,
                        HttpResponder responder) {
  using Kind = PeerDocuments::Question::Kind;
  const std::string part = Parameter(request, "part");
  PeerDocuments::Question question{Kind::kManifest, std::move(origin), path.reference};
  if (path.kind == "referrers") question.kind = Kind::kReferrers;
  if (path.kind == "blobs") question.kind = part == "table" ? Kind::kTable : Kind::kBlob;
  if (question.kind == Kind::kTable) {
    question.table_at = Parameter(request, "at");
    question.stored_size = Parameter(request, "size");
  }
  const bool is_tag = question.kind == Kind::kManifest && IsTag(path.reference);
  absl::StatusOr<std::string> token = ReadToken(request, trust_);
  if (!token.ok())
    return answers_->Send(ErrorResponse(400, "UNSUPPORTED", std::string(token.status().message())),
                          std::move(responder), PeerRole::kHome);
  question.token = *std::move(token);
  absl::StatusOr<PeerAsker> asker = ParseAsker(request);
  if (!asker.ok()) return RefuseAsker(asker.status(), std::move(responder), PeerRole::kHome);
  const bool is_part = path.kind != "blobs" || part == "whole" || part == "table";
  if (is_part && (is_tag || Digest::Parse(path.reference).ok()))
    return documents_->OnHome(std::move(question), {std::move(asker->name), std::move(asker->tried)},
                              std::move(responder));
  answers_->Send(ErrorResponse(400, "UNSUPPORTED", "neither a digest nor a tag, or an unknown part"),
                 std::move(responder), PeerRole::kHome);
}

void PeerRoutes::OnSentOn(const HttpRequest& request, BlobOrigin origin, std::string digest,
                          HttpResponder responder) {
  absl::StatusOr<PeerAsker> asker = ParseAsker(request);
  if (!asker.ok()) return RefuseAsker(asker.status(), std::move(responder), PeerRole::kPresentOnly);
  documents_->OnSentOn({PeerDocuments::Question::Kind::kBlob, std::move(origin), std::move(digest)},
                       {std::move(asker->name), std::move(asker->tried)}, std::move(responder));
}

void PeerRoutes::RefuseAsker(const absl::Status& status, HttpResponder responder, PeerRole role) {
  if (absl::IsPermissionDenied(status))
    return answers_->Send(NotInItsName(status), std::move(responder), role);
  answers_->Send(ErrorResponse(400, "UNSUPPORTED", std::string(status.message())), std::move(responder),
                 role);
}

void PeerRoutes::OnBlob(const HttpRequest& request, const BlobOrigin& origin, const Digest& digest,
                        HttpResponder responder) {
  if (!chunks_) return blobs_->OnBlob(request, origin, digest, std::move(responder));
  absl::StatusOr<std::optional<PeerBlobRequest>> asked =
      ParseChunkRequest(request, origin, digest, clock_.Now(), trust_);
  if (absl::IsPermissionDenied(asked.status()))
    return answers_->Send(NotInItsName(asked.status()), std::move(responder));
  if (!asked.ok()) {
    const bool range = absl::IsOutOfRange(asked.status());
    return answers_->Send(ErrorResponse(range ? 416 : 400, range ? "RANGE_INVALID" : "UNSUPPORTED",
                                        std::string(asked.status().message())),
                          std::move(responder),
                          request.Header("Sluice-Role") == "home" ? PeerRole::kHome : PeerRole::kPresentOnly);
  }
  if (!*asked) return blobs_->OnBlob(request, origin, digest, std::move(responder));
  chunks_->OnChunk(**std::move(asked), std::move(responder));
}

void PeerRoutes::OnToken(const HttpRequest& request, HttpResponder responder) {
  BlobOrigin origin{Parameter(request, "ns"), Parameter(request, "name")};
  if (!IsRegistryName(origin.registry) || !IsRepositoryName(origin.repository)) {
    return answers_->Send(ErrorResponse(400, "NAME_INVALID", "ns or name is missing or malformed"),
                          std::move(responder), PeerRole::kHome);
  }
  documents_->OnHome({PeerDocuments::Question::Kind::kToken, std::move(origin), {}}, {},
                     std::move(responder));
}

void PeerRoutes::OnRecipe(const HttpRequest& request, HttpResponder responder) {
  constexpr std::string_view kPrefix = "/sluice/v1/recipes/";
  const absl::StatusOr<Digest> digest = Digest::Parse(std::string_view(request.path).substr(kPrefix.size()));
  std::optional<Digest> root;
  bool malformed = !digest.ok();
  if (const std::string text = Parameter(request, "root"); !text.empty()) {
    const absl::StatusOr<Digest> parsed = Digest::Parse(text);
    malformed = malformed || !parsed.ok();
    if (parsed.ok()) root = *parsed;
  }
  if (malformed)
    return answers_->Send(ErrorResponse(400, "DIGEST_INVALID", "malformed digest"), std::move(responder));
  documents_->OnRecipe(*digest, root, std::move(responder));
}

void PeerRoutes::OnMembers(const HttpRequest& request, HttpResponder responder) {
  absl::StatusOr<std::string> answer =
      members_->Answer(Parameter(request, "since"), Parameter(request, "old"),
                       request.Header("Sluice-Member"), request.proven_names);
  if (!answer.ok()) return answers_->Send(NotInItsName(answer.status()), std::move(responder));
  HttpResponse response;
  response.content_type = "application/json";
  response.body = *std::move(answer);
  answers_->Send(std::move(response), std::move(responder));
}

void PeerRoutes::OnHolders(const HttpRequest& request, HttpResponder responder) {
  HttpResponse response;
  if (request.method == HttpMethod::kPost) {
    const absl::Status taken = holders_->Take(request.body, request.proven_names);
    if (absl::IsPermissionDenied(taken)) return answers_->Send(NotInItsName(taken), std::move(responder));
    if (!taken.ok())
      return answers_->Send(ErrorResponse(400, "UNSUPPORTED", "no announcement of a member"),
                            std::move(responder));
    response.status = 204;
    return answers_->Send(std::move(response), std::move(responder));
  }
  response.content_type = "application/json";
  response.body =
      holders_->Answer({Parameter(request, "digest"), Parameter(request, "size"), Parameter(request, "chunk"),
                        Parameter(request, "root"), Parameter(request, "shares")});
  if (response.body.empty())
    response = ErrorResponse(400, "UNSUPPORTED", "digest, size, chunk and root must say which blob");
  answers_->Send(std::move(response), std::move(responder));
}

void PeerRoutes::OnPresence(const HttpRequest& request, HttpResponder responder) {
  absl::StatusOr<std::string> present = holders_->Presence(
      {std::string_view(request.path).substr(sizeof(kPresencePath) - 1), Parameter(request, "size"),
       Parameter(request, "chunk"), Parameter(request, "root"), ""});
  if (absl::IsNotFound(present.status())) return answers_->Send(NotHere(), std::move(responder));
  if (!present.ok())
    return answers_->Send(ErrorResponse(400, "UNSUPPORTED", std::string(present.status().message())),
                          std::move(responder));
  HttpResponse response;
  response.content_type = "application/json";
  response.body = *std::move(present);
  answers_->Send(std::move(response), std::move(responder));
}

}  // namespace

void AddPeerRoutes(HttpRoutes& routes, PeerRoutesParts parts) {
  const auto served = std::make_shared<PeerRoutes>(std::move(parts));
  routes["/v2/"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnRegistry(request, std::move(responder));
  };
  routes["/sluice/v1/recipes/"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnRecipe(request, std::move(responder));
  };
  routes["/sluice/v1/token"] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnToken(request, std::move(responder));
  };
  if (served->has_members()) {
    routes["/sluice/v1/members"] = [served](const HttpRequest& request, HttpResponder responder) {
      served->OnMembers(request, std::move(responder));
    };
  }
  if (!served->has_holders()) return;
  for (const char* const route : {"/sluice/v1/holders", "POST /sluice/v1/holders"}) {
    routes[route] = [served](const HttpRequest& request, HttpResponder responder) {
      served->OnHolders(request, std::move(responder));
    };
  }
  routes[kPresencePath] = [served](const HttpRequest& request, HttpResponder responder) {
    served->OnPresence(request, std::move(responder));
  };
}

}  // namespace sluice::api
