#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "absl/functional/any_invocable.h"
#include "api/http/http_server.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"

namespace sluice::api {

// What a container runtime asks this node for in place of a registry.
struct MirrorRequest {
  enum class Kind { kManifest, kReferrers, kBlob };
  Kind kind = Kind::kManifest;
  BlobOrigin origin;
  std::string reference;      // a digest, or a tag of kManifest
  std::string authorization;  // the value of Authorization: who asks; empty if it says nothing. A secret
};

struct MirrorRefusal {
  enum class Why {
    kAbsent,      // it can't be had here: the runtime is to ask the registry
    kChallenged,  // who asks is to say who it is, as the registry's challenge says
    kDenied,      // the registry knows who it is, and refuses
    kForbidden,   // this node's policy refuses it to everybody
    kBusy,        // too much is being asked for
    kOriginAway,  // who may have it is not known, or no longer, and the registry does not say
  };
  Why why = Why::kAbsent;
  std::string challenge = {};  // of kChallenged: the value of WWW-Authenticate
};

// A manifest, or an index of referrers.
struct MirrorDocument {
  std::string media_type;
  Digest digest;
  std::string body;
};

// A blob that who asks may have.
class MirrorBlob {
 public:
  virtual ~MirrorBlob() = default;
  virtual uint64_t size() const = 0;
  // Its bytes from now on, the first of them at hand; null if they can't be had in time. Called at most once.
  // REQUIRES: not empty, and within the blob
  using OnOpen = absl::AnyInvocable<void(std::unique_ptr<HttpParts>) &&>;
  virtual void Open(ByteRange range, OnOpen on_open) = 0;
};

// Port: what registries have, for runtimes that ask this node first. Implemented by the daemon.
//
// Thread-safe; does not block. Callbacks come exactly once, on any thread, within the mirror's budget.
class MirrorContent {
 public:
  virtual ~MirrorContent() = default;

  using OnDocument = absl::AnyInvocable<void(std::variant<MirrorRefusal, MirrorDocument>) &&>;
  // REQUIRES: not kBlob
  virtual void Document(MirrorRequest request, OnDocument on_document) = 0;
  using OnBlob = absl::AnyInvocable<void(std::variant<MirrorRefusal, std::shared_ptr<MirrorBlob>>) &&>;
  // REQUIRES: kBlob, and the reference is a digest
  virtual void Blob(MirrorRequest request, OnBlob on_blob) = 0;
};

}  // namespace sluice::api
