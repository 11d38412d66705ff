#include "p2p/registry/authorizer.h"

#include <algorithm>
#include <ctime>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/peer_trust.h"
#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

constexpr size_t kTokenAnswerMax = 256 << 10;
constexpr Duration kRenewalPause = std::chrono::seconds(10);   // after a renewal that failed
constexpr Duration kShownLifetimeMax = std::chrono::hours(1);  // of a token that another node may show

using Level = AccessGrant::Level;

std::string PlaceOf(const Url& registry, std::string_view repository) {
  return absl::StrCat(registry.Authority(), "/", std::string(repository));
}

// Equal for equal credentials, and tells nothing of them.
std::string IdentityOf(const std::optional<Credential>& credential) {
  if (!credential) return {};
  std::string text;
  for (const std::string* part :
       {&credential->username, &credential->password, &credential->identity_token}) {
    absl::StrAppend(&text, part->size(), ":", *part);
  }
  return Sha256::Of(text).Hex();
}

// Whether nothing was shown though something is known.
bool Probes(const AccessGrant& shown) {
  return shown.probing && shown.level == Level::kNone;
}

absl::Status Refusal(const std::string& what) {
  return absl::UnauthenticatedError(what);
}

// Whether a token says itself that it is good for pulling; nobody has to believe one that says nothing.
bool SaysPull(const AccessToken& token, const AccessNeed& need) {
  const std::optional<std::string> inside = ScopeInToken(token.value);
  const std::optional<std::string>& scope = inside ? inside : token.scope;
  return scope && ScopeSet::Parse(*scope).Covers(ScopeSet::Repository(need.repository, "pull"));
}

// Whether another node may show a token: it soon expires, is good for nothing but pulling from that
// repository as far as it says, and is no password. There are token servers that give the password back, as
// it is or in another dress.
bool MayBeShown(const AccessToken& token, const AccessNeed& need,
                const std::optional<Credential>& credential) {
  if (!credential || token.lifetime > kShownLifetimeMax || !IsPeerToken(token.value)) return false;
  const std::optional<std::string> inside = ScopeInToken(token.value);
  if (inside && !ScopeSet::Repository(need.repository, "pull").Covers(ScopeSet::Parse(*inside))) return false;
  for (const std::string* secret : {&credential->password, &credential->identity_token}) {
    if (secret->empty()) continue;
    const std::string pair = absl::StrCat(credential->username, ":", *secret);
    for (const std::string& dress : {*secret, absl::Base64Escape(*secret), absl::WebSafeBase64Escape(*secret),
                                     absl::Base64Escape(pair), absl::WebSafeBase64Escape(pair)}) {
      if (absl::StrContains(token.value, dress)) return false;
    }
  }
  return true;
}

}  // namespace

// The credentials for a registry, as they are now.
struct Authorizer::Login {
  absl::Status error;  // why they can't be read
  std::optional<Credential> credential;
  std::string identity;  // empty without credentials
};

// As nobody in particular, where credentials are not this node's to show.
Authorizer::Login Authorizer::NotForStrangers() {
  return {.error = Refusal("it takes credentials, and whoever wants it has to show its own"),
          .credential = {},
          .identity = {}};
}

// What is asked of a token server.
struct Authorizer::Question {
  AccessNeed need;  // of the first who asks
  AuthChallenge challenge;
  Url realm;
  ScopeSet asked;
  std::optional<Credential> credential;
  std::string identity;
  // Why credentials can't be used, should the question be refused without; OK: they can.
  absl::Status without_credentials;

  std::string Key() const {
    // Those who have credentials to show when this is refused, and those who have not, are told apart.
    const std::string_view right = need.right == AccessNeed::Right::kStrangers ? "strangers" : "";
    return absl::StrJoin({need.url.Authority(), realm.ToString(), challenge.service, asked.ToString(),
                          identity, std::string(right)},
                         "\n");
  }
};

struct Authorizer::Kept {
  std::string header;
  std::optional<Question> question;  // that brought it; Basic has none
  std::string identity;
  ScopeSet granted;
  std::set<std::string> needs;  // those for which it was asked, whatever was granted
  Instant renew{};
  Instant expires{};
  bool shared = false;    // it did not come from the token server
  bool accepted = false;  // by the registry
  bool refused = false;
  Instant since{};
  Instant proven_until = Instant::min();  // the registry has given something of it for a pull
  bool says_pull = false;                 // it says itself that it is good for pulling
  bool shareable = false;                 // see PullRight::token

  // REQUIRES: question
  std::string token() const { return header.substr(std::string_view("Bearer ").size()); }
  Level level() const { return identity.empty() ? Level::kAnonymous : Level::kCredentials; }
  bool Serves(const ScopeSet& scopes) const {
    return !question || granted.Covers(scopes) || needs.contains(scopes.ToString());
  }
};

// What is known of a repository.
struct Authorizer::Repository {
  struct Denial {
    std::string identity;
    std::string scopes;
    std::string header;  // that was refused
    absl::Status why;
    Instant until;
  };
  std::vector<KeptPtr> kept;
  std::vector<Denial> denials;
  Instant public_until = Instant::min();       // it was found to need no credentials
  Instant credentials_until = Instant::min();  // without them it was refused
  Instant unshared_until = Instant::min();     // a token that was shared was refused
  Instant used{};
};

struct Authorizer::Waiter {
  AccessNeed need;
  AuthChallenge challenge;
  bool probing = false;
  Instant deadline;
  std::shared_ptr<const void> who;
  Done done;
};

// A request to a token server, with its repetitions.
struct Authorizer::Flight {
  Question question;
  std::string key;
  Url url;  // where it is asked now
  uint32_t hops = 0;
  uint32_t failures = 0;
  bool sharing_asked = false;
  Instant sent{};
  Instant next = Instant::min();   // when it is asked again
  Instant alarm = Instant::max();  // for the next deadline
  bool landed = false;
  std::vector<Waiter> waiters = {};
  std::map<std::string, std::set<std::string>> needs = {};  // by repository
};

struct Authorizer::Decision {
  std::optional<AccessGrant> grant;
  std::optional<Question> question;
};

class Authorizer::TokenSink final : public HttpSink {
 public:
  TokenSink(std::shared_ptr<Authorizer> authorizer, FlightPtr flight)
      : authorizer_(std::move(authorizer)), flight_(std::move(flight)) {}
  absl::Status OnHead(const HttpHead& head) override {
    head_ = head;
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    body_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  void OnDone(absl::Status status) override {
    authorizer_->OnAnswer(flight_, std::move(status), head_, body_);
  }

 private:
  const std::shared_ptr<Authorizer> authorizer_;
  const FlightPtr flight_;
  HttpHead head_;
  std::string body_;
};

// An executor that ends drops its tasks; who waits for one is told.
class Authorizer::RetryTask {
 public:
  RetryTask(std::shared_ptr<Authorizer> authorizer, FlightPtr flight)
      : authorizer_(std::move(authorizer)), flight_(std::move(flight)) {}
  RetryTask(RetryTask&&) = default;
  ~RetryTask() {
    if (flight_) authorizer_->Fail(flight_, absl::CancelledError("the registry client is gone"));
  }
  void operator()() && { authorizer_->Send(std::exchange(flight_, nullptr)); }

 private:
  std::shared_ptr<Authorizer> authorizer_;
  FlightPtr flight_;
};

std::shared_ptr<Authorizer> Authorizer::Create(Parts parts, AuthorizerOptions options) {
  return std::shared_ptr<Authorizer>(new Authorizer(parts, std::move(options)));
}

Authorizer::Authorizer(Parts parts, AuthorizerOptions options)
    : parts_(parts), options_(std::move(options)) {}

Authorizer::Login Authorizer::LoginOf(const std::string& registry) {
  absl::StatusOr<std::optional<Credential>> found = parts_.credentials.Find(registry);
  if (!found.ok()) return {.error = found.status(), .credential = {}, .identity = {}};
  std::string identity = IdentityOf(*found);
  return {.error = {}, .credential = *std::move(found), .identity = std::move(identity)};
}

AccessGrant Authorizer::Show(const AccessNeed& need) {
  FlightPtr renewal;
  AccessGrant grant;
  {
    const std::lock_guard lock(mutex_);
    const std::string place = PlaceOf(need.url, need.repository);
    const auto found = repositories_.find(place);
    if (found == repositories_.end()) return {};
    Repository& repository = *found->second;
    KeptPtr best = Best(repository, need);
    if (best && best->level() == Level::kCredentials) {
      DropOtherIdentities(repository, LoginOf(need.registry));
      best = Best(repository, need);
    }
    if (!best) return {};
    const Instant now = parts_.clock.Now();
    repository.used = now;
    if (best->level() == Level::kCredentials && need.probe == AccessNeed::Probe::kMay &&
        !need.scopes.MayPush() && now >= repository.credentials_until) {
      // Set at once: one request probes, the others go on as before.
      repository.credentials_until = now + options_.finding_ttl;
      return {.probing = true};
    }
    grant = GrantOf(repository, need, *best);
    renewal = Renewal(*best, place);
  }
  if (renewal) Send(renewal);
  return grant;
}

void Authorizer::DropOtherIdentities(Repository& repository, const Login& login) {
  // A file that can't be read just now, perhaps while it is written, takes nothing back.
  if (!login.error.ok()) return;
  std::erase_if(repository.kept, [&](const KeptPtr& kept) {
    return kept->level() == Level::kCredentials && kept->identity != login.identity;
  });
}

bool Authorizer::IsForStranger(const Repository& repository, const AccessNeed& need) const {
  return need.right == AccessNeed::Right::kStrangers && parts_.clock.Now() >= repository.public_until;
}

Authorizer::KeptPtr Authorizer::Best(Repository& repository, const AccessNeed& need) {
  const Instant now = parts_.clock.Now();
  std::erase_if(repository.kept, [&](const KeptPtr& kept) { return kept->refused || kept->expires <= now; });
  KeptPtr best;
  for (const KeptPtr& kept : repository.kept) {
    if (!kept->Serves(need.scopes)) continue;
    const bool is_own_token = kept->question && kept->level() == Level::kCredentials;
    if (is_own_token && IsForStranger(repository, need)) continue;
    // What the registry took before goes before what it may refuse.
    const bool better = !best || (kept->accepted && !best->accepted) ||
                        (kept->accepted == best->accepted && kept->expires > best->expires);
    if (better) best = kept;
  }
  return best;
}

AccessGrant Authorizer::GrantOf(const Repository& repository, const AccessNeed& need,
                                const Kept& kept) const {
  const bool is_public = kept.level() == Level::kAnonymous ||
                         (!need.scopes.MayPush() && parts_.clock.Now() < repository.public_until);
  return {.level = kept.level(),
          .header = kept.header,
          .access = is_public ? OriginAccess::kPublic : OriginAccess::kCredentials};
}

Authorizer::FlightPtr Authorizer::Renewal(Kept& kept, const std::string& place) {
  const Instant now = parts_.clock.Now();
  if (!kept.question || now < kept.renew) return nullptr;
  kept.renew = now + kRenewalPause;
  const std::string key = kept.question->Key();
  if (flights_.contains(key) || flights_.size() >= kFlightsMax) return nullptr;
  auto flight =
      std::make_shared<Flight>(Flight{.question = *kept.question, .key = key, .url = kept.question->realm});
  flight->needs[place] = kept.needs;
  flights_.emplace(key, flight);
  return flight;
}

Authorizer::Repository& Authorizer::At(const std::string& place) {
  std::unique_ptr<Repository>& repository = repositories_[place];
  if (!repository) repository = std::make_unique<Repository>();
  repository->used = parts_.clock.Now();
  return *repository;
}

void Authorizer::EvictBeyondBounds() {
  size_t bytes = 0;
  for (const auto& [place, repository] : repositories_) {
    for (const KeptPtr& kept : repository->kept) bytes += kept->header.size();
  }
  while (repositories_.size() > kRepositoriesMax ||
         (bytes > options_.header_bytes_max && repositories_.size() > 1)) {
    const auto oldest =
        std::min_element(repositories_.begin(), repositories_.end(),
                         [](const auto& a, const auto& b) { return a.second->used < b.second->used; });
    for (const KeptPtr& kept : oldest->second->kept) bytes -= kept->header.size();
    repositories_.erase(oldest);
  }
}

void Authorizer::Keep(const KeptPtr& kept, Repository& repository) {
  // What the same question brought before, and the oldest of what is too much.
  std::erase_if(repository.kept, [&](const KeptPtr& old) {
    if (!old->question || !kept->question) return !old->question && !kept->question;
    return old->question->Key() == kept->question->Key();
  });
  if (repository.kept.size() >= kKeptMax) repository.kept.erase(repository.kept.begin());
  repository.kept.push_back(kept);
}

void Authorizer::Answer(const AccessNeed& need, const AccessGrant& shown, const AuthChallenge& challenge,
                        Instant deadline, std::shared_ptr<const void> who, Done done) {
  FlightPtr flight;
  bool is_new = false;
  absl::StatusOr<AccessGrant> answer = AccessGrant();
  {
    const std::lock_guard lock(mutex_);
    const Login login = LoginOf(need.registry);
    absl::StatusOr<Decision> decision = Decide(need, shown, challenge, login);
    if (!decision.ok()) {
      answer = decision.status();
    } else if (decision->grant) {
      answer = *std::move(decision->grant);
    } else {
      Waiter waiter{need, challenge, shown.probing, deadline, std::move(who), std::move(done)};
      absl::StatusOr<FlightPtr> joined = Join(*std::move(decision->question), waiter, &is_new);
      if (joined.ok()) {
        flight = *std::move(joined);
      } else {
        answer = joined.status();
        done = std::move(waiter.done);
      }
    }
    EvictBeyondBounds();
  }
  if (!flight) return std::move(done)(std::move(answer));
  if (is_new) Send(flight);
  Watch(flight);
}

// REQUIRES: mutex_
absl::StatusOr<Authorizer::Decision> Authorizer::Decide(const AccessNeed& need, const AccessGrant& shown,
                                                        const AuthChallenge& challenge, const Login& login) {
  Repository& repository = At(PlaceOf(need.url, need.repository));
  const Instant now = parts_.clock.Now();
  DropOtherIdentities(repository, login);
  const KeptPtr refused = DropRefused(repository, shown);
  // Who shared it may lie, or its own was taken back.
  if (refused && refused->shared) repository.unshared_until = now + options_.unshared_time;
  const bool is_news = refused && !refused->accepted && !refused->shared;
  if (shown.level == Level::kAnonymous && is_news) {
    repository.credentials_until = now + options_.finding_ttl;
    repository.public_until = Instant::min();
  }
  if (shown.level == Level::kCredentials && is_news) {
    return Deny(repository, need, login, shown.header, Refusal("the credentials were refused"));
  }
  // A registry may change what it wants.
  const bool basic = challenge.scheme == AuthScheme::kBasic;
  if (basic && shown.level == Level::kNone) repository.public_until = Instant::min();
  std::erase_if(repository.kept, [&](const KeptPtr& kept) { return kept->question.has_value() == basic; });

  if (const KeptPtr best = Best(repository, need); best && (basic || !Probes(shown))) {
    return Decision{GrantOf(repository, need, *best), std::nullopt};
  }
  if (!basic && IsForStranger(repository, need)) {
    if (now < repository.credentials_until) return NotForStrangers().error;
    return DecideAs(NotForStrangers(), need, shown, challenge, repository);
  }
  return DecideAs(login, need, shown, challenge, repository);
}

absl::StatusOr<Authorizer::Decision> Authorizer::DecideAs(const Login& login, const AccessNeed& need,
                                                          const AccessGrant& shown,
                                                          const AuthChallenge& challenge,
                                                          Repository& repository) {
  const Instant now = parts_.clock.Now();
  std::erase_if(repository.denials, [&](const auto& denial) { return denial.until <= now; });
  for (const Repository::Denial& denial : repository.denials) {
    if (denial.identity == login.identity && denial.scopes == need.scopes.ToString()) return denial.why;
  }
  if (challenge.scheme == AuthScheme::kBasic) return DecideBasic(need, repository, login);
  return DecideBearer(need, shown, challenge, login, repository);
}

Authorizer::KeptPtr Authorizer::DropRefused(Repository& repository, const AccessGrant& shown) {
  if (shown.level == Level::kNone) return nullptr;
  const auto it = std::find_if(repository.kept.begin(), repository.kept.end(),
                               [&](const KeptPtr& kept) { return kept->header == shown.header; });
  if (it == repository.kept.end()) return nullptr;
  KeptPtr refused = *it;
  // It may be kept for other repositories too.
  if (refused->question) refused->refused = true;
  repository.kept.erase(it);
  return refused;
}

absl::Status Authorizer::Deny(Repository& repository, const AccessNeed& need, const Login& login,
                              std::string header, absl::Status why) {
  if (repository.denials.size() >= kKeptMax) repository.denials.erase(repository.denials.begin());
  repository.denials.push_back({login.identity, need.scopes.ToString(), std::move(header), why,
                                parts_.clock.Now() + options_.refusal_ttl});
  return why;
}

absl::StatusOr<Authorizer::Decision> Authorizer::DecideBasic(const AccessNeed& need, Repository& repository,
                                                             const Login& login) {
  if (!login.error.ok()) return login.error;
  if (!login.credential) return Refusal("no credentials are known");
  if (login.credential->username.empty()) return Refusal("it wants a password, not a token");
  const Instant now = parts_.clock.Now();
  const auto kept = std::make_shared<Kept>();
  kept->header = login.credential->BasicAuthorization();
  kept->identity = login.identity;
  kept->since = now;
  kept->expires = Instant::max();
  Keep(kept, repository);
  repository.credentials_until = now + options_.finding_ttl;
  return Decision{GrantOf(repository, need, *kept), std::nullopt};
}

absl::StatusOr<Authorizer::Decision> Authorizer::DecideBearer(const AccessNeed& need,
                                                              const AccessGrant& shown,
                                                              const AuthChallenge& challenge,
                                                              const Login& login, Repository& repository) {
  absl::StatusOr<Url> realm = Url::Parse(challenge.realm);
  if (!realm.ok()) {
    return absl::PermissionDeniedError(
        absl::StrCat("its token realm is refused: ", realm.status().message()));
  }
  const absl::StatusOr<RealmTrust> trust = JudgeRealm(need.url, *realm);
  if (!trust.ok()) return trust.status();
  absl::Status why_without;
  if (!login.error.ok()) {
    why_without = login.error;
  } else if (!login.credential) {
    why_without = Refusal("no credentials are known");
  } else if (*trust == RealmTrust::kAnonymous) {
    why_without = Refusal("its token server is on another host and got no credentials");
  }
  const Instant now = parts_.clock.Now();
  if (need.belief == AccessNeed::Belief::kPrivate && why_without.ok() && now >= repository.public_until)
    repository.credentials_until = std::max(repository.credentials_until, now + options_.finding_ttl);
  const bool wanted = need.scopes.MayPush() || now < repository.credentials_until;
  const bool use = why_without.ok() && wanted && !Probes(shown);
  // Nothing else is left to be shown.
  if (shown.level == Level::kAnonymous && !use && wanted) {
    return Deny(repository, need, login, shown.header, why_without);
  }
  const ScopeSet named = ScopeSet::Parse(challenge.scope);
  ScopeSet asked = named;
  // A registry that knows the repository by another name is asked for what it said.
  if (named.empty() || named.Names(need.repository)) asked.Merge(need.scopes);
  Question question{need, challenge, *std::move(realm), std::move(asked), {}, {}, why_without};
  if (use) {
    question.credential = login.credential;
    question.identity = login.identity;
  }
  return Decision{std::nullopt, std::move(question)};
}

// REQUIRES: mutex_
absl::StatusOr<Authorizer::FlightPtr> Authorizer::Join(Question question, Waiter& waiter, bool* is_new) {
  if (parts_.clock.Now() >= waiter.deadline) return absl::DeadlineExceededError("the deadline has passed");
  if (waiters_ >= kWaitersMax) return absl::ResourceExhaustedError("too many wait for tokens");
  const std::string key = question.Key();
  auto it = flights_.find(key);
  *is_new = it == flights_.end();
  if (*is_new) {
    if (flights_.size() >= kFlightsMax) return absl::ResourceExhaustedError("too many token requests");
    auto flight = std::make_shared<Flight>(Flight{.question = question, .key = key, .url = question.realm});
    it = flights_.emplace(key, std::move(flight)).first;
  }
  Flight& flight = *it->second;
  if (waiter.deadline <= flight.next) {
    return absl::UnavailableError("the token server asked for patience; no time is left to try again");
  }
  std::set<std::string>& needs = flight.needs[PlaceOf(waiter.need.url, waiter.need.repository)];
  if (needs.size() < kKeptMax) needs.insert(waiter.need.scopes.ToString());
  flight.waiters.push_back(std::move(waiter));
  ++waiters_;
  return it->second;
}

void Authorizer::Send(const FlightPtr& flight) {
  std::shared_ptr<const void> who;  // kept alive, and with it the parts, until the request is on its way
  HttpRequest request;
  bool ask_for_shared = false;
  {
    const std::lock_guard lock(mutex_);
    if (flight->landed) return;
    if (!flight->waiters.empty()) who = flight->waiters.front().who;
    // Nobody is left who keeps the parts.
    if (flight->failures > 0 && !who) {
      Remove(*flight);
      return;
    }
    flight->sent = parts_.clock.Now();
    flight->next = Instant::min();
    ask_for_shared = who && !flight->sharing_asked && MayBeShared(*flight);
    flight->sharing_asked = true;
    request = RequestOf(*flight);
  }
  if (ask_for_shared) return AskForShared(flight, std::move(who));
  const absl::Status admitted = parts_.breaker.Admit(ServerName(*flight));
  if (!admitted.ok()) return Fail(flight, admitted);
  parts_.transport.Ask(std::move(request), std::make_unique<TokenSink>(shared_from_this(), flight));
}

// REQUIRES: mutex_
bool Authorizer::MayBeShared(const Flight& flight) {
  const Question& question = flight.question;
  const AccessNeed& need = question.need;
  return options_.shared_token && question.identity.empty() &&
         question.asked == ScopeSet::Repository(need.repository, "pull") &&
         At(PlaceOf(need.url, need.repository)).unshared_until <= parts_.clock.Now();
}

void Authorizer::AskForShared(const FlightPtr& flight, std::shared_ptr<const void> who) {
  const AccessNeed& need = flight->question.need;
  options_.shared_token(
      {need.registry, need.repository},
      [self = shared_from_this(), flight, who = std::move(who)](absl::StatusOr<AccessToken> token) {
        if (!token.ok() || token->value.empty() || token->lifetime <= Duration(0)) return self->Send(flight);
        token->scope.reset();
        self->Take(flight, *std::move(token), TokenFrom::kSharing);
      });
}

std::optional<PullRight> Authorizer::OwnRight(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return std::nullopt;
  Repository& repository = *found->second;
  const Instant now = parts_.clock.Now();
  if (now < repository.public_until) return PullRight{};
  DropOtherIdentities(repository, LoginOf(need.registry));
  const KeptPtr best = Best(repository, need);
  if (!best || best->level() != Level::kCredentials || (!best->says_pull && best->proven_until <= now))
    return std::nullopt;
  const KeptPtr shareable = ShareableIn(repository, need);
  return PullRight{OriginAccess::kCredentials, shareable ? shareable->token() : std::string()};
}

bool Authorizer::HasCredentials(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return false;
  DropOtherIdentities(*found->second, LoginOf(need.registry));
  const KeptPtr best = Best(*found->second, need);
  return best && best->level() == Level::kCredentials;
}

Authorizer::KeptPtr Authorizer::ShareableIn(Repository& repository, const AccessNeed& need) {
  const Instant now = parts_.clock.Now();
  for (const KeptPtr& kept : repository.kept) {
    const bool usable = kept->shareable && !kept->refused && kept->expires > now;
    if (usable && kept->question->asked == need.scopes) return kept;
  }
  return nullptr;
}

std::string Authorizer::ShareableToken(const AccessNeed& need) {
  FlightPtr renewal;
  std::string token;
  {
    const std::lock_guard lock(mutex_);
    const std::string place = PlaceOf(need.url, need.repository);
    const auto found = repositories_.find(place);
    if (found == repositories_.end()) return {};
    Repository& repository = *found->second;
    DropOtherIdentities(repository, LoginOf(need.registry));
    const KeptPtr kept = ShareableIn(repository, need);
    if (!kept) return {};
    repository.used = parts_.clock.Now();
    token = kept->token();
    renewal = Renewal(*kept, place);
  }
  if (renewal) Send(renewal);
  return token;
}

void Authorizer::Forget(const AccessNeed& need, const std::string& token) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return;
  const Instant young = parts_.clock.Now() - options_.refusal_ttl;
  std::erase_if(found->second->kept, [&](const KeptPtr& kept) {
    const bool drop = kept->shareable && kept->since <= young && kept->token() == token;
    // It may be kept for other repositories too.
    if (drop) kept->refused = true;
    return drop;
  });
}

bool Authorizer::IsClosedToStrangers(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return false;
  const Repository& repository = *found->second;
  const Instant now = parts_.clock.Now();
  const bool has_password = std::any_of(repository.kept.begin(), repository.kept.end(),
                                        [](const KeptPtr& kept) { return !kept->question; });
  return now < repository.credentials_until && now >= repository.public_until && !has_password;
}

bool Authorizer::TakesCredentials(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return false;
  const Instant now = parts_.clock.Now();
  return now < found->second->credentials_until && now >= found->second->public_until;
}

bool Authorizer::IsPublic(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  return found != repositories_.end() && parts_.clock.Now() < found->second->public_until;
}

std::optional<AccessToken> Authorizer::AnonymousToken(const AccessNeed& need) {
  const std::lock_guard lock(mutex_);
  const auto found = repositories_.find(PlaceOf(need.url, need.repository));
  if (found == repositories_.end()) return std::nullopt;
  const Instant now = parts_.clock.Now();
  for (const KeptPtr& kept : found->second->kept) {
    const bool own = kept->level() == Level::kAnonymous && !kept->shared && !kept->refused && kept->question;
    if (!own || kept->expires <= now || kept->question->asked != need.scopes) continue;
    return AccessToken{kept->token(), kept->expires - now, std::nullopt};
  }
  return std::nullopt;
}

std::string Authorizer::ServerName(const Flight& flight) {
  return absl::StrCat("token server ", flight.url.Authority());
}

HttpRequest Authorizer::RequestOf(const Flight& flight) const {
  const Question& question = flight.question;
  HttpRequest http;
  http.loopback = question.need.loopback;
  http.timeout = options_.token_timeout;
  http.body_bytes_max = kTokenAnswerMax;
  if (question.credential && !question.credential->identity_token.empty()) {
    // Source: distribution, "Token Authentication: OAuth2", grant_type refresh_token.
    const Url form = Url::Parse(flight.url.SchemeAndAuthority())
                         ->WithQuery("grant_type", "refresh_token")
                         .WithQuery("client_id", options_.client_id)
                         .WithQuery("service", question.challenge.service)
                         .WithQuery("scope", question.asked.ToString())
                         .WithQuery("refresh_token", question.credential->identity_token);
    http.method = "POST";
    http.url = flight.url.ToString();
    http.headers.Add("Content-Type", "application/x-www-form-urlencoded");
    http.body = HttpBody::FromString(form.query());
    return http;
  }
  Url url = flight.url;
  if (flight.hops == 0) {
    if (!question.challenge.service.empty()) url = url.WithQuery("service", question.challenge.service);
    for (const std::string& scope : question.asked.Texts()) url = url.WithQuery("scope", scope);
  }
  http.url = url.ToString();
  if (question.credential) http.headers.Add("Authorization", question.credential->BasicAuthorization());
  return http;
}

// One alarm a flight, for the deadline that is next.
void Authorizer::Watch(const FlightPtr& flight) {
  Instant next = Instant::max();
  {
    const std::lock_guard lock(mutex_);
    for (const Waiter& waiter : flight->waiters) next = std::min(next, waiter.deadline);
    if (flight->landed || next >= flight->alarm) return;
    flight->alarm = next;
  }
  // Neither is kept alive by a deadline that may be half an hour away.
  parts_.transport.After(next - parts_.clock.Now(),
                         [self = weak_from_this(), watched = std::weak_ptr<Flight>(flight), next]() mutable {
                           const std::shared_ptr<Authorizer> authorizer = self.lock();
                           const FlightPtr waiting = watched.lock();
                           if (authorizer && waiting) authorizer->Expire(waiting, next);
                         });
}

void Authorizer::Expire(const FlightPtr& flight, Instant when) {
  std::vector<Waiter> late;
  {
    const std::lock_guard lock(mutex_);
    if (flight->landed) return;
    if (flight->alarm == when) flight->alarm = Instant::max();
    late = TakeWaiters(*flight, [&](const Waiter& waiter) { return waiter.deadline <= when; });
  }
  for (Waiter& waiter : late) {
    std::move(waiter.done)(absl::DeadlineExceededError("timed out while a token was asked for"));
  }
  Watch(flight);
}

// REQUIRES: mutex_
std::vector<Authorizer::Waiter> Authorizer::TakeWaiters(Flight& flight,
                                                        absl::FunctionRef<bool(const Waiter&)> which) {
  const auto taken = std::stable_partition(flight.waiters.begin(), flight.waiters.end(),
                                           [&](const Waiter& waiter) { return !which(waiter); });
  std::vector<Waiter> out(std::make_move_iterator(taken), std::make_move_iterator(flight.waiters.end()));
  flight.waiters.erase(taken, flight.waiters.end());
  waiters_ -= out.size();
  return out;
}

void Authorizer::Abandon(const void* who) {
  std::vector<Waiter> gone;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, flight] : flights_) {
      gone = TakeWaiters(*flight, [&](const Waiter& waiter) { return waiter.who.get() == who; });
      if (!gone.empty()) break;
    }
  }
  for (Waiter& waiter : gone) {
    // Not from here: who abandons may hold a lock that the callback takes.
    auto done = std::make_shared<Waiter>(std::move(waiter));
    parts_.executor.Post([done] { std::move(done->done)(absl::CancelledError("nobody wants it any more")); });
  }
}

void Authorizer::OnAnswer(const FlightPtr& flight, absl::Status status, const HttpHead& head,
                          std::string_view body) {
  if (absl::IsCancelled(status)) return Fail(flight, status);
  const std::string server = absl::StrCat("token server of ", flight->question.need.url.Authority());
  const std::string host = ServerName(*flight);
  if (head.status == 0 || MayPass(head.status) || (head.status == 200 && !status.ok())) {
    parts_.breaker.Failed(host, flight->sent);
    absl::Status error(
        status.ok() || absl::IsDeadlineExceeded(status) ? absl::StatusCode::kUnavailable : status.code(),
        absl::StrCat(
            server, ": ",
            head.status == 0 ? std::string(status.message()) : absl::StrCat("status ", head.status)));
    if (!absl::IsUnavailable(error)) return Fail(flight, error);
    // Who is known may be let through where strangers are too many.
    if (head.status == 429 && MayUseCredentials(*flight)) return UseCredentials(flight, Finding::kStands);
    return Retry(flight, head, std::move(error));
  }
  parts_.breaker.Succeeded(host);
  if (head.status / 100 == 3) return Follow(flight, head);
  if (head.status != 200) {
    if (MayUseCredentials(*flight)) return UseCredentials(flight, Finding::kRefuted);
    return Refuse(flight, Refusal(absl::StrCat(head.status, " from the ", server)));
  }
  absl::StatusOr<AccessToken> token = ParseTokenAnswer(body);
  if (token.ok()) return Take(flight, *std::move(token), TokenFrom::kServer);
  if (MayUseCredentials(*flight)) return UseCredentials(flight, Finding::kRefuted);
  Fail(flight, absl::DataLossError(absl::StrCat(server, ": ", token.status().message())));
}

bool Authorizer::MayUseCredentials(const Flight& flight) {
  return flight.question.identity.empty() && flight.question.without_credentials.ok();
}

// The question was refused without credentials: those who wait ask with them.
void Authorizer::UseCredentials(const FlightPtr& flight, Finding was_public) {
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [place, needs] : flight->needs) {
      Repository& repository = At(place);
      repository.credentials_until = parts_.clock.Now() + options_.finding_ttl;
      if (was_public == Finding::kRefuted) repository.public_until = Instant::min();
    }
    waiters = Remove(*flight);
  }
  for (Waiter& waiter : waiters) {
    Answer(waiter.need, {}, waiter.challenge, waiter.deadline, std::move(waiter.who), std::move(waiter.done));
  }
}

void Authorizer::Retry(const FlightPtr& flight, const HttpHead& head, absl::Status error) {
  Duration delay = parts_.backoff.Delay(flight->failures + 1);
  if (const std::optional<std::string_view> text = head.headers.Get("Retry-After")) {
    const std::optional<Duration> asked = ParseRetryAfter(*text, std::time(nullptr));
    if (asked) delay += std::min(*asked, options_.retry_after_max);
  }
  const Instant when = parts_.clock.Now() + delay;
  std::vector<Waiter> late;
  bool goes_on = false;
  {
    const std::lock_guard lock(mutex_);
    if (++flight->failures <= options_.retries_max) {
      late = TakeWaiters(*flight, [&](const Waiter& waiter) { return waiter.deadline <= when; });
      goes_on = !flight->waiters.empty();
      flight->next = when;
    } else {
      error = absl::UnavailableError(
          absl::StrCat(error.message(), "; gave up after ", flight->failures, " attempts"));
    }
  }
  for (Waiter& waiter : late) {
    std::move(waiter.done)(
        absl::UnavailableError(absl::StrCat(error.message(), "; no time is left to try again")));
  }
  if (!goes_on) return Fail(flight, error);
  parts_.executor.PostAt(when, RetryTask(shared_from_this(), flight));
}

void Authorizer::Follow(const FlightPtr& flight, const HttpHead& head) {
  const std::string server = absl::StrCat("token server of ", flight->question.need.url.Authority());
  const absl::StatusOr<Url> next = flight->url.Resolve(head.headers.Get("Location").value_or(""));
  absl::Status status = next.status();
  if (next.ok()) {
    const absl::StatusOr<RealmTrust> trust = JudgeRealm(flight->question.need.url, *next);
    status = trust.status();
    if (flight->question.credential && flight->url.SchemeAndAuthority() != next->SchemeAndAuthority()) {
      status = absl::PermissionDeniedError("credentials do not follow to another host");
    } else if (flight->question.credential && !flight->question.credential->identity_token.empty()) {
      status = absl::PermissionDeniedError("an identity token does not follow a redirect");
    } else if (flight->hops >= kRedirectsMax) {
      status = absl::PermissionDeniedError("too many redirects");
    }
  }
  if (!status.ok()) {
    return Fail(flight,
                absl::PermissionDeniedError(absl::StrCat(server, ": redirect refused: ", status.message())));
  }
  {
    const std::lock_guard lock(mutex_);
    flight->url = *next;
    ++flight->hops;
  }
  Send(flight);
}

void Authorizer::Refuse(const FlightPtr& flight, absl::Status why) {
  const absl::Status& hint = flight->question.without_credentials;
  if (flight->question.identity.empty() && !hint.ok()) {
    why = absl::Status(hint.code(), absl::StrCat(why.message(), ": ", hint.message()));
  }
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    waiters = Remove(*flight);
    for (const Waiter& waiter : waiters) {
      Repository& repository = At(PlaceOf(waiter.need.url, waiter.need.repository));
      if (waiter.need.right == AccessNeed::Right::kStrangers) {
        repository.credentials_until = parts_.clock.Now() + options_.finding_ttl;
        repository.public_until = Instant::min();
        continue;
      }
      const std::string scopes = waiter.need.scopes.ToString();
      const bool known = std::any_of(repository.denials.begin(), repository.denials.end(),
                                     [&](const auto& denial) { return denial.scopes == scopes; });
      if (!known) Deny(repository, waiter.need, LoginOf(waiter.need.registry), {}, why).IgnoreError();
    }
  }
  for (Waiter& waiter : waiters) std::move(waiter.done)(why);
}

void Authorizer::Take(const FlightPtr& flight, AccessToken token, TokenFrom from) {
  const auto kept = std::make_shared<Kept>();
  kept->shared = from == TokenFrom::kSharing;
  kept->says_pull = from == TokenFrom::kServer && SaysPull(token, flight->question.need);
  kept->shareable = MayBeShown(token, flight->question.need, flight->question.credential);
  kept->header = absl::StrCat("Bearer ", token.value);
  kept->question = flight->question;
  kept->identity = flight->question.identity;
  kept->granted =
      token.scope ? ScopeSet::Parse(*token.scope).CommonWith(flight->question.asked) : flight->question.asked;
  std::vector<std::pair<Waiter, absl::StatusOr<AccessGrant>>> answers;
  {
    const std::lock_guard lock(mutex_);
    const Instant now = parts_.clock.Now();
    kept->since = now;
    kept->renew = now + token.lifetime * 3 / 4;
    kept->expires = now + token.lifetime * 9 / 10;
    std::set<std::string> places;
    for (const std::string& name : kept->granted.Repositories()) {
      places.insert(PlaceOf(flight->question.need.url, name));
    }
    for (const auto& [place, needs] : flight->needs) {
      places.insert(place);
      kept->needs.insert(needs.begin(), needs.end());
    }
    for (const std::string& place : places) Keep(kept, At(place));
    for (Waiter& waiter : Remove(*flight)) {
      absl::StatusOr<AccessGrant> grant = GrantTo(waiter.need, *kept);
      if (grant.ok()) grant->probing = waiter.probing;
      answers.emplace_back(std::move(waiter), std::move(grant));
    }
    EvictBeyondBounds();
  }
  for (auto& [waiter, answer] : answers) std::move(waiter.done)(std::move(answer));
}

// REQUIRES: mutex_
absl::StatusOr<AccessGrant> Authorizer::GrantTo(const AccessNeed& need, const Kept& kept) {
  Repository& repository = At(PlaceOf(need.url, need.repository));
  const Instant now = parts_.clock.Now();
  for (const Repository::Denial& denial : repository.denials) {
    if (denial.header == kept.header && denial.until > now) {
      return Refusal("the token server gave the token once more that was refused");
    }
  }
  return GrantOf(repository, need, kept);
}

std::vector<Authorizer::Waiter> Authorizer::Remove(Flight& flight) {
  if (!std::exchange(flight.landed, true)) flights_.erase(flight.key);
  return TakeWaiters(flight, [](const Waiter&) { return true; });
}

void Authorizer::Fail(const FlightPtr& flight, const absl::Status& status) {
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    waiters = Remove(*flight);
  }
  for (Waiter& waiter : waiters) std::move(waiter.done)(status);
}

void Authorizer::Accepted(const AccessNeed& need, const AccessGrant& shown, Outcome outcome) {
  const std::lock_guard lock(mutex_);
  const std::string place = PlaceOf(need.url, need.repository);
  const auto found = repositories_.find(place);
  // Of a repository that never refused anything there is nothing to be known.
  if (found == repositories_.end()) return;
  Repository& repository = *found->second;
  const bool pulled = outcome == Outcome::kServed && !need.scopes.MayPush();
  for (const KeptPtr& kept : repository.kept) {
    if (kept->header != shown.header) continue;
    kept->accepted = true;
    if (pulled) kept->proven_until = parts_.clock.Now() + options_.right_ttl;
  }
  if (outcome != Outcome::kServed || shown.level == Level::kCredentials || need.scopes.MayPush()) return;
  const Instant now = parts_.clock.Now();
  repository.public_until = now + options_.finding_ttl;
  if (!shown.probing && repository.credentials_until > now) return;
  // It was found out that credentials are not needed any more.
  repository.credentials_until = Instant::min();
  std::erase_if(repository.kept, [](const KeptPtr& kept) { return kept->level() == Level::kCredentials; });
}

bool Authorizer::Escalate(const AccessNeed& need, const AccessGrant& shown, int status) {
  if (shown.level == Level::kCredentials || (shown.level == Level::kNone && !shown.probing)) return false;
  const std::lock_guard lock(mutex_);
  Repository& repository = At(PlaceOf(need.url, need.repository));
  const Instant now = parts_.clock.Now();
  if (IsForStranger(repository, need)) {
    if (status == 403) repository.credentials_until = now + options_.finding_ttl;
    return false;
  }
  // Of a public repository it is the truth.
  if (now < repository.public_until && status == 404) return false;
  const Login login = LoginOf(need.registry);
  if (!login.error.ok() || !login.credential) return false;
  if (status != 429) repository.public_until = Instant::min();
  // Some hide what is private as absent, and most 404s are none of these: it is soon looked at again.
  repository.credentials_until = std::max(
      repository.credentials_until, now + (status == 404 ? options_.refusal_ttl : options_.finding_ttl));
  std::erase_if(repository.kept, [](const KeptPtr& kept) { return kept->level() == Level::kAnonymous; });
  EvictBeyondBounds();
  return true;
}

}  // namespace sluice::p2p
