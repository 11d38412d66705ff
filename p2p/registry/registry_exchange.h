#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/http/http_client.h"
#include "p2p/http/url.h"
#include "p2p/registry/authorizer.h"
#include "p2p/registry/docker_credentials.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/retry_policy.h"

namespace sluice::p2p {

// Short-lived facts about URLs, and what it took to learn them. Bounded: when full, it starts again from
// nothing.
//
// Thread-safe.
class UrlMemory {
 public:
  static constexpr size_t kEntriesMax = 4096;

  UrlMemory(Duration ttl, const Clock& clock) : ttl_(ttl), clock_(clock) {}

  struct Fact {
    std::string text;
    OriginAccess access = OriginAccess::kUnknown;
  };
  std::optional<Fact> Find(const std::string& url);
  void Put(const std::string& url, Fact fact);
  void Forget(const std::string& url);

 private:
  struct Entry {
    Fact fact;
    Instant expires;
  };

  const Duration ttl_;
  const Clock& clock_;
  std::mutex mutex_;  // guards entries_
  std::map<std::string, Entry> entries_;
};

// What all requests of a registry client share. Lives until the last of them has answered.
//
// Thread-safe.
class RegistryCore : private TokenTransport {
 public:
  RegistryCore(RegistryClient::Parts parts, RegistryOptions options);

  // "https://host[:port]/v2/<repository>": how a repository is spoken to.
  // Errors: InvalidArgument (registry or repository is not a well-formed name).
  absl::StatusOr<Url> RepositoryUrl(const BlobOrigin& origin) const;

  // What it takes to pull from a repository. Errors: as above.
  absl::StatusOr<AccessNeed> PullNeed(const BlobOrigin& origin) const;

  // One of its own, which knows what was given and nothing of this node's.
  std::shared_ptr<Authorizer> AuthorizerOf(std::shared_ptr<Credentials> given);

  // The deadline of a call that was given none.
  Instant DefaultDeadline() const { return parts.clock.Now() + options.request_timeout; }

  const RegistryClient::Parts parts;
  const RegistryOptions options;
  HttpClient http;
  DockerCredentials credentials;
  CircuitBreaker breaker;
  Patience patience;
  Backoff backoff;
  const std::shared_ptr<Authorizer> authorizer;
  UrlMemory not_found;  // URLs that gave a 404
  UrlMemory redirects;  // blob URL -> where it led

  // Counts an answer's status; 0: there was none.
  void Count(int status) const;

 private:
  void Ask(HttpRequest request, std::unique_ptr<HttpSink> sink) override;
  void After(Duration delay, Task task) override { http.After(delay, std::move(task)); }
  absl::StatusOr<Url> MakeRepositoryUrl(const BlobOrigin& origin) const;

  static constexpr size_t kUrlsMax = 1024;
  mutable std::mutex urls_mutex_;
  // Guarded by urls_mutex_. What was made lately, as each request of a mirror needs one and parsing is slow.
  // Beyond kUrlsMax all go.
  mutable std::map<BlobOrigin, Url> urls_;
};

enum class RegistryAccess { kPull, kPush };

// What happens to a request that failed in a way that may pass.
enum class RepeatRule {
  kUntilFirstByte,  // sent again as long as the sink saw no byte of a body
  kAnew,            // sent again; the sink starts over with the next OnHead
  kNever,           // not sent again, except with credentials after a 401
};

enum class RedirectMemory { kNone, kKeep };

struct RegistryRequest {
  BlobOrigin origin;
  RegistryAccess access = RegistryAccess::kPull;
  std::string also_pulls = {};  // another repository of the registry, whose blobs are taken from there
  std::string method = "GET";
  std::string path = {};             // below the repository: "/blobs/sha256:..."
  std::optional<Url> location = {};  // instead of `path`: an upload's URL, as the registry gave it
  HttpHeaders headers = {};
  std::optional<HttpBody> body = {};
  Instant deadline{};
  uint64_t body_bytes_max = 1 << 20;  // of a 2xx answer
  RepeatRule repeat = RepeatRule::kAnew;
  RedirectMemory redirect_memory = RedirectMemory::kNone;
  FetchClass fetch_class = FetchClass::kDemand;
  // Another's right to pull (PullGrant), by which it is asked; null: this node's own. What is refused to
  // it is Unauthenticated or PermissionDenied, also where the registry says 404, which may hide the same.
  Grant grant = nullptr;
  // kGrant: it ends with OK as soon as it is known what to show, without an answer.
  enum class Until { kAnswer, kGrant };
  Until until = Until::kAnswer;
  AccessNeed::Belief belief = AccessNeed::Belief::kNone;
  bool own_connection = false;  // as HttpRequest's
};

// Takes the final answer of a registry, on a thread of the HTTP client's or the executor's. Same rules as
// HttpSink, except that OnHead sees only 2xx answers, and may come again (RepeatRule). It
// also tells what it took to get the answer: kPublic if no credentials went with any request that led to it,
// or none were needed when it was last found out (Authorizer).
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  virtual absl::Status OnHead(const HttpHead& head, OriginAccess access) = 0;
  virtual bool Takes() { return true; }  // more of the body
  virtual absl::Status OnBody(std::span<const std::byte> bytes) = 0;
  virtual void OnDone(absl::Status status) = 0;
};

// Sends a request to a registry: with credentials once they are asked for, through redirects, again after
// failures that may pass. Errors: as RegistryClient, and Cancelled (by what is returned).
std::shared_ptr<PacedControl> StartExchange(std::shared_ptr<RegistryCore> core, RegistryRequest request,
                                            std::unique_ptr<AnswerSink> sink);

// May a step from `from` (a redirect, or an upload's location) lead to `to`? Errors: PermissionDenied.
absl::Status JudgeStep(const Url& from, const Url& to, LoopbackRule loopback);

}  // namespace sluice::p2p
