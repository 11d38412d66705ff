#include "api/http/document_route.h"

#include <utility>

namespace sluice::api {

void DocumentRoute::OnManifest(const BlobOrigin& origin, const Digest& digest, HttpResponder responder) {
  parts_.io.Post([self = shared_from_this(), origin, digest, responder = std::move(responder)]() mutable {
    self->Answer(self->parts_.documents.Manifest(origin, digest), &digest, std::move(responder));
  });
}

void DocumentRoute::OnRecipe(const Digest& blob, const std::optional<Digest>& root, HttpResponder responder) {
  parts_.io.Post([self = shared_from_this(), blob, root, responder = std::move(responder)]() mutable {
    self->Answer(self->parts_.documents.Recipe(blob, root), nullptr, std::move(responder));
  });
}

// `digest` names the document itself, if it is named so.
void DocumentRoute::Answer(const absl::StatusOr<PeerDocument>& document, const Digest* digest,
                           HttpResponder responder) {
  if (!document.ok()) return parts_.answers->Send(NotHere(), std::move(responder));
  HttpResponse response;
  response.content_type = document->media_type;
  response.body = document->body;
  if (digest) {
    response.headers.emplace_back("ETag", EntityTag(*digest));
    response.headers.emplace_back("Docker-Content-Digest", digest->ToString());
  }
  parts_.answers->Send(std::move(response), std::move(responder));
}

}  // namespace sluice::api
