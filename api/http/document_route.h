#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "api/http/http_server.h"
#include "api/http/peer_response.h"
#include "api/http/whole_places.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/peer_trust.h"
#include "node/telemetry.h"

namespace sluice::api {

struct PeerDocument {
  std::string media_type;
  std::string body;
  bool is_public = true;  // its repository gives it to everybody
  // In place of `body`, what many are given.
  std::shared_ptr<const std::string> shared = nullptr;
  Duration public_age = {};  // if it is public: how long ago the registry was found to give it to everybody

  const std::string& bytes() const { return shared ? *shared : body; }
};

// Port: what a mount needs beside blobs. Implemented by the daemon.
//
// Thread-safe; may block on disk.
class PeerDocuments {
 public:
  virtual ~PeerDocuments() = default;

  // A manifest that this node got from that repository, as public unless members are proven. Errors:
  // NotFound, whatever the reason.
  virtual absl::StatusOr<PeerDocument> Manifest(const BlobOrigin& origin, const Digest& digest) = 0;
  // The bound recipe of a blob that this node got somewhere, as public unless members are proven; with `root`
  // only that one. Errors:
  // NotFound, whatever the reason.
  virtual absl::StatusOr<PeerDocument> Recipe(const Digest& blob, const std::optional<Digest>& root) = 0;

  // What a registry has: a manifest by digest or tag, the index of what refers to one, a whole small
  // blob, the seek table of a compressed one, and the token that strangers get.
  struct Question {
    enum class Kind { kManifest, kReferrers, kBlob, kTable, kToken };
    Kind kind = Kind::kManifest;
    BlobOrigin origin;
    std::string reference;  // a digest, or a tag of kManifest; nothing of kToken
    // Of kTable: the query's at=OFFSET:SIZE:sha256:HEX, and size= of the blob as it is stored.
    std::string table_at = {};
    std::string stored_size = {};
    std::string token = {};  // by which the registry is to be asked for it; empty: the asker shows none
  };
  using Done = absl::AnyInvocable<void(absl::StatusOr<PeerDocument>) &&>;
  // This node is asked as the home: it asks the registry if it does not have it. `done` is called exactly
  // once, on any thread. Errors: NotFound (the registry has no such), PermissionDenied (who asks is to ask
  // the registry itself: this node may not, or it is not public), Unauthenticated (the same, since the
  // registry wants credentials, and no better ones were shown), InvalidArgument (malformed), all else:
  // trouble.
  virtual void AskRegistry(const Question& question, Done done) = 0;
  // A whole blob that this node has got from there a moment ago, by whoever. Errors: NotFound (whatever the
  // reason), Unavailable (it is on its way).
  virtual absl::StatusOr<PeerDocument> GotLately(const Question& question) = 0;
};

// Gives other nodes what they need beside blobs: manifests and recipes that are here, and as a home what the
// registry has.
//
// Called on the server's thread; documents are read on the I/O pool.
class DocumentRoute : public std::enable_shared_from_this<DocumentRoute> {
 public:
  static constexpr Duration kInterimEvery = std::chrono::milliseconds(500);

  struct Parts {
    PeerDocuments& documents;
    Executor& io;
    Telemetry& telemetry;
    std::shared_ptr<const PeerAnswers> answers;
    PeerTrust trust = PeerTrust::kUnproven;
    std::shared_ptr<WholePlaces> places = nullptr;  // null: whole blobs are sent to all who ask
  };
  // What is referred to outlives it.
  explicit DocumentRoute(Parts parts) : parts_(std::move(parts)) {}

  void OnManifest(const BlobOrigin& origin, const Digest& digest, HttpResponder responder);
  // With `root` only the recipe of that root.
  void OnRecipe(const Digest& blob, const std::optional<Digest>& root, HttpResponder responder);
  // Says with 102, at once and every kInterimEvery, that it is at it. 200, 400, 403, 404, 503. A whole blob
  // goes to few named askers at once: the others are refused, and told of those.
  void OnHome(PeerDocuments::Question question, WholePlaces::Asker asker, HttpResponder responder);
  // A whole blob for who was sent on here. 200, 404, 503.
  void OnSentOn(PeerDocuments::Question question, WholePlaces::Asker asker, HttpResponder responder);

 private:
  void SendWhole(const std::string& reference, const WholePlaces::Asker& asker, PeerDocument document,
                 HttpResponder responder, PeerRole role);
  void Answer(const absl::StatusOr<PeerDocument>& document, const Digest* digest, HttpResponder responder);

  const Parts parts_;
};

}  // namespace sluice::api
