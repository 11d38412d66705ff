#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/http/http_client.h"
#include "p2p/http/url.h"
#include "p2p/registry/docker_credentials.h"
#include "p2p/registry/registry_auth.h"
#include "p2p/registry/retry_policy.h"
#include "p2p/registry/token_scope.h"

namespace sluice::p2p {

// Port: how token servers are reached.
class TokenTransport {
 public:
  virtual ~TokenTransport() = default;
  // As HttpClient::Send; the sink may be called before it returns.
  virtual void Ask(HttpRequest request, std::unique_ptr<HttpSink> sink) = 0;
  // As HttpClient::After.
  virtual void After(Duration delay, Task task) = 0;
};

// Gives a token that a stranger gets for pulling from a repository, e.g. one that another node has got for
// all. The callback comes exactly once, on any thread, or in the call.
using SharedToken = std::function<void(const BlobOrigin& repository,
                                       absl::AnyInvocable<void(absl::StatusOr<AccessToken>) &&>)>;

struct AuthorizerOptions {
  std::string client_id = "sluice";                     // told to token servers that speak OAuth2
  Duration token_timeout = std::chrono::seconds(15);    // of one request to a token server
  Duration finding_ttl = std::chrono::hours(1);         // how long a repository is held for public or not
  Duration refusal_ttl = std::chrono::seconds(5);       // how long a refusal stands without asking again
  uint32_t retries_max = 4;                             // of one token, when its server is in trouble
  Duration retry_after_max = std::chrono::seconds(30);  // a longer Retry-After is cut to this
  size_t header_bytes_max = 8 << 20;                    // of all that is kept; unused longest goes first
  SharedToken shared_token = nullptr;                   // asked before the token server; may be null
  Duration unshared_time = std::chrono::minutes(5);     // not asked, after one that was refused
  Duration right_ttl = std::chrono::minutes(5);         // how long what a registry gave proves a right
};

// A node's own right to pull from a repository.
struct PullRight {
  OriginAccess access = OriginAccess::kPublic;  // kCredentials: by this node's own
  // What another node may show that fetches something for this one: a token for pulling from that repository
  // alone, which soon expires and gives away no password. Empty: there is none.
  std::string token = {};
};

// Who asks a registry for what.
struct AccessNeed {
  std::string registry;  // as references name it
  Url url;               // of the repository
  std::string repository;
  ScopeSet scopes;
  LoopbackRule loopback = LoopbackRule::kRefuse;
  // Whether this request may go without credentials to find out whether the repository is public.
  enum class Probe { kNo, kMay };
  Probe probe = Probe::kNo;
  // kStrangers: another node asks, which is shown what strangers get. Credentials are shown for it only where
  // the repository was found lately to need none, and where a registry knows passwords alone (Basic).
  enum class Right { kOwn, kStrangers };
  Right right = Right::kOwn;
  // Whether somebody who is believed says that strangers get nothing: then credentials are shown at once.
  enum class Belief { kNone, kPrivate };
  Belief belief = Belief::kNone;
};

// What a request shows to a registry.
struct AccessGrant {
  enum class Level { kNone, kAnonymous, kCredentials };
  Level level = Level::kNone;
  std::string header = {};  // the value of Authorization; empty with kNone
  // What the answer to it is: public if no credentials were needed, or if it was found lately that none are.
  OriginAccess access = OriginAccess::kPublic;
  bool probing = false;  // something is known, and left out to see whether it goes without
};

// Decides what requests to registries show, and gets it. The rules:
//
// - A repository is asked without credentials first, or with an anonymous token where the registry wants one.
//   Credentials are shown when that is refused (or throttled), for an hour; then one request of those that
//   may probe goes without again. What is pushed takes credentials at once.
// - Whoever waits for the same token (registry, realm, service, scopes, identity) waits for one request, each
//   to its own deadline. A token server in trouble is asked again with back-off, as its Retry-After says.
// - A token is kept under what was granted, and for the very question that brought it. It is renewed in the
//   background when it is used after three quarters of its life, and dropped when a tenth of that is left,
//   when the registry refuses it, or when the credentials that it came from have changed.
// - An anonymous token for pulling may come from who shares it. One that is refused says nothing of the
//   repository: then the token server itself is asked.
// - What was just given and is refused is not asked for again for a few seconds.
// - Credentials go to a token server as JudgeRealm says, and never along a redirect to another host.
//
// Thread-safe. Callbacks come on the transport's thread, the executor's, or that of the call, and never under
// a lock. The parts outlive the transport's requests.
class Authorizer : public std::enable_shared_from_this<Authorizer> {
 public:
  static constexpr size_t kRepositoriesMax = 1024;  // that something is known of; unused longest goes first
  static constexpr size_t kKeptMax = 8;             // tokens of a repository, and refusals
  static constexpr size_t kFlightsMax = 256;        // token requests under way; beyond: ResourceExhausted
  static constexpr size_t kWaitersMax = 8192;       // in all; beyond: ResourceExhausted
  static constexpr uint32_t kRedirectsMax = 3;

  struct Parts {
    const Clock& clock;
    Executor& executor;
    TokenTransport& transport;
    Credentials& credentials;
    CircuitBreaker& breaker;
    Backoff& backoff;
    std::shared_ptr<const void> owned = nullptr;  // lives as long as the authorizer
  };
  static std::shared_ptr<Authorizer> Create(Parts parts, AuthorizerOptions options);

  // What a request shows that was not refused yet. Nothing, if nothing is known.
  AccessGrant Show(const AccessNeed& need);

  // The registry answered `shown` with a 401 and that challenge; what to show instead comes to `done`,
  // exactly once. `who` is kept until then, and names the wait: one at a time each. Errors: Unauthenticated
  // (refused, or no credentials), PermissionDenied (the realm may not be asked), FailedPrecondition (docker
  // config), DataLoss (the answer is no token), DeadlineExceeded, Unavailable, ResourceExhausted, Cancelled.
  // No secret is in them.
  using Done = absl::AnyInvocable<void(absl::StatusOr<AccessGrant>) &&>;
  void Answer(const AccessNeed& need, const AccessGrant& shown, const AuthChallenge& challenge,
              Instant deadline, std::shared_ptr<const void> who, Done done);
  // Ends that wait with Cancelled, if it goes on. The request goes on for others, and for later.
  void Abandon(const void* who);

  // What a stranger may show for pulling, if it came from the token server itself, with what is left of its
  // life.
  std::optional<AccessToken> AnonymousToken(const AccessNeed& need);

  // This node's own right, where no more need be asked for it: the repository was found to be public lately,
  // or the registry has given something of it to this node's credentials lately, or the token that it has
  // says so itself. A token server that gives tokens to everybody, which are good for nothing, proves
  // nothing.
  std::optional<PullRight> OwnRight(const AccessNeed& need);
  // Whether this node has a token or a password for it, be it proven or not.
  bool HasCredentials(const AccessNeed& need);
  // The token as PullRight has it, be it proven or not; empty if there is none. Renews it in time.
  std::string ShareableToken(const AccessNeed& need);
  // A token of this node's was refused to who showed it for this node: it is dropped, unless it is so young
  // that another would be refused, too.
  void Forget(const AccessNeed& need, const std::string& token);
  // Whether it was found lately that strangers get nothing, and this node has no password to show for them.
  bool IsClosedToStrangers(const AccessNeed& need);
  // The same, whatever this node has.
  bool TakesCredentials(const AccessNeed& need);
  // Whether it was found lately that strangers get everything.
  bool IsPublic(const AccessNeed& need);

  // The registry took `shown`: it answered otherwise than with 401, 403, 429 or a 5xx.
  enum class Outcome { kServed, kNotServed };
  void Accepted(const AccessNeed& need, const AccessGrant& shown, Outcome outcome);

  // The registry answered `shown` with 403, 404 or 429. True if credentials may do better: then Show gives
  // them, or the next challenge brings them.
  bool Escalate(const AccessNeed& need, const AccessGrant& shown, int status);

 private:
  struct Question;
  struct Kept;
  struct Repository;
  struct Waiter;
  struct Flight;
  struct Login;
  struct Decision;  // what to show at once, if that is known; else the question to be asked
  class TokenSink;
  class RetryTask;
  enum class Finding { kStands, kRefuted };  // what was found of a repository before
  using KeptPtr = std::shared_ptr<Kept>;
  using FlightPtr = std::shared_ptr<Flight>;

  Authorizer(Parts parts, AuthorizerOptions options);

  Login LoginOf(const std::string& registry);
  static Login NotForStrangers();

  // All REQUIRE mutex_.
  Repository& At(const std::string& place);
  KeptPtr Best(Repository& repository, const AccessNeed& need);
  // Whether what is asked is to be answered as a stranger would be.
  bool IsForStranger(const Repository& repository, const AccessNeed& need) const;
  KeptPtr ShareableIn(Repository& repository, const AccessNeed& need);
  AccessGrant GrantOf(const Repository& repository, const AccessNeed& need, const Kept& kept) const;
  absl::StatusOr<AccessGrant> GrantTo(const AccessNeed& need, const Kept& kept);
  void DropOtherIdentities(Repository& repository, const Login& login);
  KeptPtr DropRefused(Repository& repository, const AccessGrant& shown);
  void Keep(const KeptPtr& kept, Repository& repository);
  void EvictBeyondBounds();
  // A request in the background, if it is time; to be sent.
  FlightPtr Renewal(Kept& kept, const std::string& place);
  // Remembers a refusal for a moment, and returns it.
  absl::Status Deny(Repository& repository, const AccessNeed& need, const Login& login, std::string header,
                    absl::Status why);
  absl::StatusOr<Decision> Decide(const AccessNeed& need, const AccessGrant& shown,
                                  const AuthChallenge& challenge, const Login& login);
  absl::StatusOr<Decision> DecideAs(const Login& login, const AccessNeed& need, const AccessGrant& shown,
                                    const AuthChallenge& challenge, Repository& repository);
  absl::StatusOr<Decision> DecideBasic(const AccessNeed& need, Repository& repository, const Login& login);
  absl::StatusOr<Decision> DecideBearer(const AccessNeed& need, const AccessGrant& shown,
                                        const AuthChallenge& challenge, const Login& login,
                                        Repository& repository);
  // Takes the waiter unless it fails; `*is_new`: the flight is to be sent.
  absl::StatusOr<FlightPtr> Join(Question question, Waiter& waiter, bool* is_new);
  std::vector<Waiter> TakeWaiters(Flight& flight, absl::FunctionRef<bool(const Waiter&)> which);
  bool MayBeShared(const Flight& flight);
  // Ends the flight; returns who waited.
  std::vector<Waiter> Remove(Flight& flight);

  // None with mutex_ held.
  void Send(const FlightPtr& flight);
  void AskForShared(const FlightPtr& flight, std::shared_ptr<const void> who);
  void Watch(const FlightPtr& flight);
  void Expire(const FlightPtr& flight, Instant when);
  void OnAnswer(const FlightPtr& flight, absl::Status status, const HttpHead& head, std::string_view body);
  void Retry(const FlightPtr& flight, const HttpHead& head, absl::Status error);
  void Follow(const FlightPtr& flight, const HttpHead& head);
  void Refuse(const FlightPtr& flight, absl::Status why);
  void UseCredentials(const FlightPtr& flight, Finding was_public);
  enum class TokenFrom { kServer, kSharing };
  void Take(const FlightPtr& flight, AccessToken token, TokenFrom from);
  void Fail(const FlightPtr& flight, const absl::Status& status);

  HttpRequest RequestOf(const Flight& flight) const;
  static std::string ServerName(const Flight& flight);
  static bool MayUseCredentials(const Flight& flight);

  const Parts parts_;
  const AuthorizerOptions options_;

  std::mutex mutex_;                                                            // guards the rest
  absl::flat_hash_map<std::string, std::unique_ptr<Repository>> repositories_;  // by registry and name
  absl::flat_hash_map<std::string, FlightPtr> flights_;                         // by question
  size_t waiters_ = 0;
};

}  // namespace sluice::p2p
