#include "api/http/document_route.h"

#include <mutex>
#include <utility>
#include <variant>

namespace sluice::api {
namespace {

// To come again where it is on its way.
constexpr Duration kRetrySoon = std::chrono::milliseconds(5);

// An answer that is still to come: whoever waits for it is told so.
class Pending : public std::enable_shared_from_this<Pending> {
 public:
  Pending(Executor& io, HttpResponder responder) : io_(io), responder_(std::move(responder)) {}

  // Until it is taken.
  void Tell() {
    {
      const std::lock_guard lock(mutex_);
      if (!responder_) return;
      responder_->Interim(102);
    }
    io_.PostAt(std::chrono::steady_clock::now() + DocumentRoute::kInterimEvery, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Tell();
    });
  }
  // REQUIRES: it was not taken
  HttpResponder Take() {
    const std::lock_guard lock(mutex_);
    HttpResponder responder = *std::move(responder_);
    responder_.reset();
    return responder;
  }

 private:
  Executor& io_;
  std::mutex mutex_;
  std::optional<HttpResponder> responder_;  // guarded by mutex_
};

HttpResponse Refusal(const absl::Status& status, PeerTrust trust) {
  if (absl::IsUnauthenticated(status)) {
    HttpResponse response = ErrorResponse(403, "DENIED", "ask-yourself");
    SayPublic(response, trust, /*is_public=*/false);
    return response;
  }
  if (absl::IsNotFound(status)) return NotHere();
  if (absl::IsPermissionDenied(status)) return ErrorResponse(403, "DENIED", "ask-yourself");
  if (absl::IsInvalidArgument(status)) return ErrorResponse(400, "UNSUPPORTED", "malformed question");
  return ErrorResponse(503, "UNAVAILABLE", "the registry could not be asked");
}

}  // namespace

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

void DocumentRoute::OnHome(PeerDocuments::Question question, WholePlaces::Asker asker,
                           HttpResponder responder) {
  const auto pending = std::make_shared<Pending>(parts_.io, std::move(responder));
  pending->Tell();
  parts_.io.Post([self = shared_from_this(), question = std::move(question), asker = std::move(asker),
                  pending] {
    const bool is_blob = question.kind == PeerDocuments::Question::Kind::kBlob;
    self->parts_.documents.AskRegistry(
        question, [self, pending, is_blob, asker,
                   reference = question.reference](absl::StatusOr<PeerDocument> document) {
          if (!document.ok())
            return self->parts_.answers->Send(Refusal(document.status(), self->parts_.trust), pending->Take(),
                                              PeerRole::kHome);
          if (is_blob)
            return self->SendWhole(reference, asker, *std::move(document), pending->Take(), PeerRole::kHome);
          HttpResponse response;
          SayPublic(response, self->parts_.trust, document->is_public, document->public_age);
          response.content_type = std::move(document->media_type);
          response.body = std::move(document->body);
          self->parts_.answers->Send(std::move(response), pending->Take(), PeerRole::kHome);
        });
  });
}

void DocumentRoute::OnSentOn(PeerDocuments::Question question, WholePlaces::Asker asker,
                             HttpResponder responder) {
  // It would get no place, and wait for none.
  if (asker.name.empty()) return parts_.answers->Send(NotHere(), std::move(responder));
  absl::StatusOr<PeerDocument> document = parts_.documents.GotLately(question);
  if (absl::IsUnavailable(document.status()))
    return parts_.answers->Send(ComeAgain(kRetrySoon, {}), std::move(responder));
  if (!document.ok()) return parts_.answers->Send(NotHere(), std::move(responder));
  asker.is_help = true;
  SendWhole(question.reference, asker, *std::move(document), std::move(responder), PeerRole::kPresentOnly);
}

void DocumentRoute::SendWhole(const std::string& reference, const WholePlaces::Asker& asker,
                              PeerDocument document, HttpResponder responder, PeerRole role) {
  WholePlaces::Place place;
  const absl::StatusOr<Digest> form = Digest::Parse(reference);
  if (parts_.places && !asker.name.empty() && form.ok()) {
    auto answer = parts_.places->Ask(*form, asker);
    if (const auto* const busy = std::get_if<WholePlaces::Busy>(&answer))
      return parts_.answers->Send(ComeAgain(busy->retry, busy->helpers), std::move(responder), role);
    place = std::get<WholePlaces::Place>(std::move(answer));
  }
  // What is sent, and who is.
  struct Sending {
    PeerDocument document;
    std::shared_ptr<const void> place;
  };
  const auto sending =
      std::make_shared<const Sending>(Sending{std::move(document), std::move(place.sending)});
  const std::string& bytes = sending->document.bytes();
  HttpResponse response;
  SayPublic(response, parts_.trust, sending->document.is_public, sending->document.public_age);
  response.content_type = sending->document.media_type;
  Counter& sent = parts_.telemetry.peer_sent_bytes[static_cast<size_t>(PeerLane::kExpress)];
  if (!bytes.empty()) {
    response.file = FileSpan{.length = bytes.size(),
                             .holder = sending,
                             .on_sent = [&sent](uint64_t count) { sent.Add(count); },
                             .on_taken = std::move(place.on_taken),
                             .memory = reinterpret_cast<const std::byte*>(bytes.data())};
  }
  parts_.answers->Send(std::move(response), std::move(responder), role);
}

// `digest` names the document itself, if it is named so.
void DocumentRoute::Answer(const absl::StatusOr<PeerDocument>& document, const Digest* digest,
                           HttpResponder responder) {
  if (!document.ok()) return parts_.answers->Send(NotHere(), std::move(responder));
  HttpResponse response;
  SayPublic(response, parts_.trust, document->is_public, document->public_age);
  response.content_type = document->media_type;
  response.body = document->body;
  if (digest) {
    response.headers.emplace_back("ETag", EntityTag(*digest));
    response.headers.emplace_back("Docker-Content-Digest", digest->ToString());
  }
  parts_.answers->Send(std::move(response), std::move(responder));
}

}  // namespace sluice::api
