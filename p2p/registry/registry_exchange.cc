#include "p2p/registry/registry_exchange.h"

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "p2p/http/text.h"
#include "p2p/recipe/sha256.h"
#include "p2p/registry/pull_grant.h"

namespace sluice::p2p {
namespace {

constexpr uint32_t kRedirectsMax = 5;
// One with what was kept, one with what is new, and the same once more with credentials.
constexpr uint32_t kChallengesMax = 4;
constexpr size_t kErrorBodyKeptMax = 4 << 10;
constexpr size_t kErrorBodyReadMax = 64 << 10;  // beyond it the connection is not worth keeping
constexpr char kToldToEverybody[] = "sluice/told-to-everybody";  // a payload of NotFound

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// The code of a registry's error document. Its message is not shown: it may quote what was sent.
// Source: distribution specification, "Error Codes".
std::string RegistryErrorCode(std::string_view body) {
  const nlohmann::json document = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("errors")) return {};
  const nlohmann::json& errors = document["errors"];
  if (!errors.is_array() || errors.empty() || !errors[0].is_object()) return {};
  const auto it = errors[0].find("code");
  if (it == errors[0].end() || !it->is_string()) return {};
  const std::string code = it->get<std::string>();
  const bool plain = code.size() <= 64 && std::all_of(code.begin(), code.end(), [](char c) {
                       return absl::ascii_isupper(c) || c == '_';
                     });
  return plain && !code.empty() ? absl::StrCat(" (", code, ")") : std::string();
}

absl::Status ErrorOfAnswer(int status, const std::string& what) {
  switch (status) {
    case 401:
      return absl::UnauthenticatedError(
          absl::StrCat(what, ": log in with docker login, or set origin.dockerConfig"));
    case 403:
      return absl::PermissionDeniedError(absl::StrCat(what, ": the credentials do not permit this"));
    case 404:
      return absl::NotFoundError(
          absl::StrCat(what, ": it is not there, or may not be seen without logging in"));
    case 416:
      return absl::OutOfRangeError(
          absl::StrCat(what, ": the blob is shorter than the size its manifest promised"));
    default:
      // The registry would say the same of the same request again.
      return status / 100 == 4 && !MayPass(status) ? absl::FailedPreconditionError(what)
                                                   : absl::UnavailableError(what);
  }
}

absl::Status ToldTo(OriginAccess access, absl::Status not_found) {
  if (IsPublic(access)) not_found.SetPayload(kToldToEverybody, absl::Cord());
  return not_found;
}

bool IsRepositoryName(std::string_view name) {
  constexpr size_t kNameMax = 255;
  if (name.empty() || name.size() > kNameMax) return false;
  for (const absl::string_view part : absl::StrSplit(Abs(name), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
    const bool clean = std::all_of(part.begin(), part.end(), [](char c) {
      return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '.' || c == '_' || c == '-';
    });
    if (!clean) return false;
  }
  return true;
}

// A request to a registry, until its final answer. Its steps follow one another, on whatever thread each
// comes; there is never more than one under way, so its fields need no lock, but for those by which it is
// cancelled and raised meanwhile.
class Exchange final : public PacedControl, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(std::shared_ptr<RegistryCore> core, RegistryRequest request, std::unique_ptr<AnswerSink> sink)
      : core_(std::move(core)), request_(std::move(request)), sink_(std::move(sink)) {}
  ~Exchange() {
    if (sink_) sink_->OnDone(absl::CancelledError("the registry client is gone"));
  }

  void Start();

  void Raise(FetchClass fetch_class) override;
  void Cancel() override;
  void GoOn() override;

 private:
  // Hands the answer of one HTTP request to the exchange and keeps that alive.
  class Receiver;

  void Attempt();
  void Send(HttpRequest http, std::unique_ptr<HttpSink> sink);
  void AttemptAt(Instant when);
  HttpRequest MakeHttpRequest();
  AccessGrant ToShow();

  absl::Status OnHead(const HttpHead& head);
  // Errors are always read.
  bool Takes() { return head_.status / 100 != 2 || sink_->Takes(); }
  absl::Status OnBody(std::span<const std::byte> bytes);
  void OnHttpDone(absl::Status status);
  void Answered(absl::Status status);
  void Refused();
  void TransportFailed(absl::Status status);
  void FollowRedirect();
  std::optional<Duration> PatienceAsked() const;  // by the last answer
  void RetryLater(absl::Status error);
  void StartOverAtRegistry();

  void Authenticate();
  void OnGrant(absl::StatusOr<AccessGrant> grant);
  void NoteAccepted();

  void Finish(absl::Status status);
  bool AtRegistry() const { return url_->SchemeAndAuthority() == registry_url_->SchemeAndAuthority(); }
  bool Redirected() const { return hops_ > 0; }
  AccessNeed NeedAt(const Url& repository) const;
  // Whose credentials and tokens are shown.
  Authorizer& authorizer() const {
    return by_credentials() ? *PullGrant::AuthorizerOf(request_.grant) : *core_->authorizer;
  }
  bool by_credentials() const { return PullGrant::IsCredentials(request_.grant); }
  bool is_for_another() const { return request_.grant != nullptr; }
  bool shows_anothers_token() const { return PullGrant::IsToken(request_.grant); }
  // Where one led by credentials of its own is nobody else's to know.
  bool remembers_redirects() const {
    return request_.redirect_memory == RedirectMemory::kKeep && !by_credentials();
  }
  // Where it led is told to those alone who have the same right.
  std::string RedirectKey() const {
    if (!shows_anothers_token()) return registry_url_->ToString();
    return absl::StrCat(registry_url_->ToString(), " ", Sha256::Of(PullGrant::TokenOf(request_.grant)).Hex());
  }
  std::string What() const { return absl::StrCat(request_.method, " ", url_->Redacted()); }
  // What one is told that another is not says nothing to the rest.
  bool remembers_404() const {
    return !is_for_another() && request_.access == RegistryAccess::kPull &&
           (request_.method == "GET" || request_.method == "HEAD");
  }
  absl::Status Explained(const absl::Status& status) const {
    return absl::Status(status.code(), absl::StrCat(What(), ": ", status.message()));
  }

  void NoteCredentials() { access_ = OriginAccess::kCredentials; }

  const std::shared_ptr<RegistryCore> core_;
  RegistryRequest request_;
  std::unique_ptr<AnswerSink> sink_;  // null once it has been answered

  std::optional<Url> registry_url_;  // what was asked for
  std::optional<Url> url_;           // where it is asked for now
  LoopbackRule loopback_ = LoopbackRule::kRefuse;
  uint32_t hops_ = 0;
  uint32_t failures_ = 0;
  bool re_resolved_ = false;
  std::optional<AccessNeed> need_;
  uint32_t challenges_ = 0;
  bool escalated_ = false;
  std::optional<AccessGrant> given_;  // to be shown next
  AccessGrant shown_;                 // as last sent to the registry
  // Sticky: what comes after credentials were shown may have come because of them.
  OriginAccess access_ = OriginAccess::kPublic;

  // Of the HTTP request under way.
  Instant sent_{};
  HttpHead head_;
  std::string error_body_;
  size_t error_body_bytes_ = 0;
  bool body_begun_ = false;
  absl::Status rejected_;  // what the sink said

  std::mutex control_mutex_;  // guards what follows
  bool cancelled_ = false;
  bool waiting_ = false;  // for the next attempt
  FetchClass fetch_class_ = request_.fetch_class;
  std::optional<HttpClient::RequestId> sent_id_;  // the last
};

class Exchange::Receiver final : public HttpSink {
 public:
  explicit Receiver(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  absl::Status OnHead(const HttpHead& head) override { return exchange_->OnHead(head); }
  bool Takes() override { return exchange_->Takes(); }
  absl::Status OnBody(std::span<const std::byte> bytes) override { return exchange_->OnBody(bytes); }
  void OnDone(absl::Status status) override { exchange_->OnHttpDone(std::move(status)); }

 private:
  const std::shared_ptr<Exchange> exchange_;
};

void Exchange::Start() {
  absl::StatusOr<Url> repository = core_->RepositoryUrl(request_.origin);
  if (!repository.ok()) return Finish(repository.status());
  absl::StatusOr<Url> url =
      request_.location ? *request_.location : Url::Parse(repository->ToString() + request_.path);
  if (!url.ok()) return Finish(url.status());
  // An upload's location may be on another host, which then gets no credentials.
  registry_url_ = request_.location ? *repository : *url;
  url_ = *url;
  loopback_ = NamesLoopback(repository->host()) ? LoopbackRule::kAllow : LoopbackRule::kRefuse;
  need_ = NeedAt(*repository);
  if (const auto absent = remembers_404() ? core_->not_found.Find(url_->ToString()) : std::nullopt) {
    return Finish(
        ToldTo(absent->access, absl::NotFoundError(absl::StrCat(What(), ": it was not there a moment ago"))));
  }
  if (remembers_redirects()) {
    const std::optional<UrlMemory::Fact> known = core_->redirects.Find(RedirectKey());
    const bool is_strangers = PullGrant::IsStrangers(request_.grant);
    if (known && (!is_strangers || known->access == OriginAccess::kPublic)) {
      url_ = *Url::Parse(known->text);
      if (known->access != OriginAccess::kPublic) NoteCredentials();
      hops_ = 1;
    }
  }
  if (PullGrant::IsStrangers(request_.grant) && authorizer().IsClosedToStrangers(*need_)) {
    return Finish(
        absl::UnauthenticatedError(absl::StrCat(What(), ": it was found lately that it takes credentials")));
  }
  Attempt();
}

AccessNeed Exchange::NeedAt(const Url& repository) const {
  const bool push = request_.access == RegistryAccess::kPush;
  AccessNeed need{.registry = request_.origin.registry,
                  .url = repository,
                  .repository = request_.origin.repository,
                  .scopes = ScopeSet::Repository(request_.origin.repository, push ? "pull,push" : "pull"),
                  .loopback = loopback_,
                  .right = PullGrant::IsStrangers(request_.grant) ? AccessNeed::Right::kStrangers
                                                                  : AccessNeed::Right::kOwn,
                  .belief = request_.belief};
  if (!request_.also_pulls.empty()) need.scopes.Merge(ScopeSet::Repository(request_.also_pulls, "pull"));
  // Cheap, and at the head of all that follows.
  if (!push && absl::StartsWith(request_.path, "/manifests/")) need.probe = AccessNeed::Probe::kMay;
  return need;
}

void Exchange::Attempt() {
  sent_ = core_->parts.clock.Now();
  if (sent_ >= request_.deadline) {
    return Finish(absl::DeadlineExceededError(absl::StrCat(What(), ": the deadline has passed")));
  }
  if (absl::Status status = core_->breaker.Admit(url_->Authority()); !status.ok()) {
    return Finish(Explained(status));
  }
  head_ = {};
  error_body_.clear();
  error_body_bytes_ = 0;
  Send(MakeHttpRequest(), std::make_unique<Receiver>(shared_from_this()));
}

void Exchange::Send(HttpRequest http, std::unique_ptr<HttpSink> sink) {
  // A step may follow on another thread before Send has returned; it waits here, so that the last id is kept.
  const std::lock_guard lock(control_mutex_);
  http.fetch_class = fetch_class_;
  if (!cancelled_) {
    sent_id_ = core_->http.Send(std::move(http), std::move(sink));
    return;
  }
  // Not from here: what it calls may take the lock.
  core_->parts.executor.Post([sink = std::shared_ptr<HttpSink>(std::move(sink))] {
    sink->OnDone(absl::CancelledError("nobody wants it any more"));
  });
}

void Exchange::AttemptAt(Instant when) {
  {
    const std::lock_guard lock(control_mutex_);
    waiting_ = true;
  }
  core_->parts.executor.PostAt(when, [self = shared_from_this()] {
    {
      const std::lock_guard lock(self->control_mutex_);
      if (!std::exchange(self->waiting_, false)) return;  // cancelled
    }
    self->Attempt();
  });
}

void Exchange::Raise(FetchClass fetch_class) {
  const std::lock_guard lock(control_mutex_);
  if (fetch_class >= fetch_class_) return;
  fetch_class_ = fetch_class;
  if (sent_id_) core_->http.Raise(*sent_id_, fetch_class);
}

void Exchange::GoOn() {
  const std::lock_guard lock(control_mutex_);
  if (sent_id_) core_->http.GoOn(*sent_id_);
}

void Exchange::Cancel() {
  const std::lock_guard lock(control_mutex_);
  if (std::exchange(cancelled_, true)) return;
  if (sent_id_) core_->http.Cancel(*sent_id_);
  authorizer().Abandon(this);
  if (!std::exchange(waiting_, false)) return;
  core_->parts.executor.Post(
      [self = shared_from_this()] { self->Finish(absl::CancelledError("nobody wants it any more")); });
}

HttpRequest Exchange::MakeHttpRequest() {
  HttpRequest http;
  http.method = request_.method;
  http.url = url_->ToString();
  http.headers = request_.headers;
  http.body = request_.body;
  http.loopback = loopback_;
  http.own_connection = request_.own_connection;
  http.timeout = request_.deadline - core_->parts.clock.Now();
  // An upload's last answer comes when the registry has hashed and moved the blob; no byte flows meanwhile.
  const bool flows = request_.method == "GET" || (request_.body && request_.body->size > 0);
  http.rate_min_bytes_per_s = flows ? core_->options.rate_min_bytes_per_s : 0;
  http.rate_window = core_->options.rate_window;
  http.body_bytes_max = std::max<uint64_t>(request_.body_bytes_max, kErrorBodyReadMax);
  if (AtRegistry()) {
    shown_ = ToShow();
    if (shown_.access != OriginAccess::kPublic) NoteCredentials();
    if (!shown_.header.empty()) http.headers.Add("Authorization", shown_.header);
  }
  return http;
}

AccessGrant Exchange::ToShow() {
  if (given_) return *std::exchange(given_, std::nullopt);
  if (!shows_anothers_token()) return authorizer().Show(*need_);
  return {.level = AccessGrant::Level::kCredentials,
          .header = absl::StrCat("Bearer ", PullGrant::TokenOf(request_.grant)),
          .access = authorizer().IsPublic(*need_) ? OriginAccess::kPublic : OriginAccess::kCredentials};
}

absl::Status Exchange::OnHead(const HttpHead& head) {
  head_ = head;
  if (!MayPass(head.status)) core_->breaker.Succeeded(url_->Authority());
  NoteAccepted();
  if (head.status / 100 != 2) return absl::OkStatus();
  rejected_ = sink_->OnHead(head, access_);
  return rejected_;
}

void Exchange::NoteAccepted() {
  const int status = head_.status;
  if (!AtRegistry() || status == 401 || status == 403 || MayPass(status)) return;
  // Another's token says nothing of this node's, and what is not of the repository says nothing of it.
  if (shows_anothers_token() || request_.until == RegistryRequest::Until::kGrant) return;
  const bool served = status / 100 == 2 || IsRedirect(status);
  authorizer().Accepted(*need_, shown_,
                        served ? Authorizer::Outcome::kServed : Authorizer::Outcome::kNotServed);
}

absl::Status Exchange::OnBody(std::span<const std::byte> bytes) {
  core_->parts.telemetry.origin_bytes.Add(bytes.size());
  if (head_.status / 100 == 2) {
    body_begun_ = true;
    if (absl::StartsWith(request_.path, "/blobs/"))
      core_->parts.telemetry.origin_blob_bytes.Add(bytes.size());
    rejected_ = sink_->OnBody(bytes);
    return rejected_;
  }
  error_body_bytes_ += bytes.size();
  const size_t kept = std::min(bytes.size(), kErrorBodyKeptMax - error_body_.size());
  error_body_.append(reinterpret_cast<const char*>(bytes.data()), kept);
  return error_body_bytes_ > kErrorBodyReadMax ? absl::CancelledError("error text too long")
                                               : absl::OkStatus();
}

void Exchange::OnHttpDone(absl::Status status) {
  core_->Count(head_.status);
  // The sink's verdict on an answer stands, whatever became of the transfer.
  if (!rejected_.ok()) return Finish(Explained(rejected_));
  if (head_.status == 0 || (head_.status / 100 == 2 && !status.ok()))
    return TransportFailed(std::move(status));
  if (head_.status / 100 == 2) return Answered(std::move(status));
  if (IsRedirect(head_.status)) return FollowRedirect();
  Refused();
}

void Exchange::Answered(absl::Status status) {
  if (Redirected() && remembers_redirects()) {
    // What is remembered already keeps its time: the signature it carries does not grow younger by use.
    const std::string key = RedirectKey();
    if (!core_->redirects.Find(key)) core_->redirects.Put(key, {url_->ToString(), access_});
  }
  Finish(std::move(status));
}

// An answer that is neither success nor redirect.
void Exchange::Refused() {
  const int status = head_.status;
  if (Redirected() && !re_resolved_ && (status == 401 || status == 403 || status == 404)) {
    // Signed storage URLs answer so when they have expired.
    re_resolved_ = true;
    StartOverAtRegistry();
    return Attempt();
  }
  if (status == 401 && AtRegistry() && !shows_anothers_token()) return Authenticate();
  const bool may_escalate = AtRegistry() && !shows_anothers_token() && !escalated_ &&
                            (status == 403 || status == 404 || status == 429);
  if (may_escalate && authorizer().Escalate(*need_, shown_, status)) {
    escalated_ = true;
    return Attempt();
  }
  const bool has_shown = !shown_.header.empty() || challenges_ > 0;
  if (status == 404 && is_for_another() && !by_credentials() && has_shown && !authorizer().IsPublic(*need_)) {
    return Finish(absl::PermissionDeniedError(
        absl::StrCat("404 from ", What(), ": it is not there, or not for whoever asks")));
  }
  if (status == 404 && remembers_404()) core_->not_found.Put(registry_url_->ToString(), {{}, access_});
  absl::Status error =
      ErrorOfAnswer(status, absl::StrCat(status, RegistryErrorCode(error_body_), " from ", What()));
  if (status == 404) error = ToldTo(access_, std::move(error));
  if (!MayPass(status)) return Finish(std::move(error));
  core_->breaker.Failed(url_->Authority(), sent_);
  if (const std::optional<Duration> asked = PatienceAsked(); asked && (status == 429 || status == 503))
    core_->patience.Asked(request_.origin.registry, *asked);
  RetryLater(std::move(error));
}

std::optional<Duration> Exchange::PatienceAsked() const {
  const std::optional<std::string_view> text = head_.headers.Get("Retry-After");
  const std::optional<Duration> asked = text ? ParseRetryAfter(*text, std::time(nullptr)) : std::nullopt;
  if (!asked) return std::nullopt;
  return std::min(*asked, core_->options.retry_after_max);
}

void Exchange::TransportFailed(absl::Status status) {
  const bool host_failed = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  if (host_failed) core_->breaker.Failed(url_->Authority(), sent_);
  absl::Status error = Explained(status);
  if (!absl::IsUnavailable(status)) return Finish(std::move(error));
  if (body_begun_ && request_.repeat == RepeatRule::kUntilFirstByte) return Finish(std::move(error));
  RetryLater(std::move(error));
}

void Exchange::RetryLater(absl::Status error) {
  if (request_.repeat == RepeatRule::kNever) return Finish(std::move(error));
  if (++failures_ > core_->options.retries_max) {
    return Finish(absl::Status(error.code(), absl::StrCat(error.message(), "; gave up after ", failures_,
                                                          failures_ == 1 ? " attempt" : " attempts")));
  }
  Duration delay = core_->backoff.Delay(failures_);
  if (const std::optional<Duration> asked = PatienceAsked()) delay += *asked;
  const Instant when = core_->parts.clock.Now() + delay;
  if (when >= request_.deadline) {
    return Finish(
        absl::Status(error.code(), absl::StrCat(error.message(), "; no time is left to try again")));
  }
  StartOverAtRegistry();
  AttemptAt(when);
}

void Exchange::StartOverAtRegistry() {
  if (request_.location) return;
  if (remembers_redirects()) core_->redirects.Forget(RedirectKey());
  url_ = registry_url_;
  hops_ = 0;
}

void Exchange::FollowRedirect() {
  if (request_.method != "GET" && request_.method != "HEAD") {
    return Finish(
        absl::UnavailableError(absl::StrCat(What(), ": answered by a redirect; uploads do not follow it")));
  }
  if (++hops_ > kRedirectsMax) {
    return Finish(absl::UnavailableError(absl::StrCat(What(), ": more than ", kRedirectsMax, " redirects")));
  }
  const std::optional<std::string_view> location = head_.headers.Get("Location");
  if (!location) return Finish(absl::DataLossError(absl::StrCat(What(), ": redirect without a Location")));
  absl::StatusOr<Url> next = url_->Resolve(*location);
  if (!next.ok()) {
    return Finish(
        absl::PermissionDeniedError(absl::StrCat(What(), ": redirect refused: ", next.status().message())));
  }
  if (absl::Status status = JudgeStep(*url_, *next, loopback_); !status.ok())
    return Finish(Explained(status));
  url_ = *std::move(next);
  Attempt();
}

void Exchange::Authenticate() {
  absl::StatusOr<AuthChallenge> challenge = SelectChallenge(head_.headers.All("WWW-Authenticate"));
  if (!challenge.ok()) {
    return Finish(absl::UnauthenticatedError(
        absl::StrCat("401 from ", What(), ": no way to log in: ", challenge.status().message())));
  }
  // What is named at the base is some other repository, if anything.
  if (request_.until == RegistryRequest::Until::kGrant) challenge->scope.clear();
  if (++challenges_ > kChallengesMax) {
    return OnGrant(absl::UnauthenticatedError("what its token server gave was refused each time"));
  }
  authorizer().Answer(
      *need_, shown_, *challenge, request_.deadline, shared_from_this(),
      [self = shared_from_this()](absl::StatusOr<AccessGrant> grant) { self->OnGrant(std::move(grant)); });
  // It may have been cancelled before it waited.
  bool cancelled = false;
  {
    const std::lock_guard lock(control_mutex_);
    cancelled = cancelled_;
  }
  if (cancelled) authorizer().Abandon(this);
}

void Exchange::OnGrant(absl::StatusOr<AccessGrant> grant) {
  if (!grant.ok()) {
    const std::string text =
        absl::StrCat("401", RegistryErrorCode(error_body_), " from ", What(), ": ", grant.status().message());
    const bool is_refused = absl::IsUnauthenticated(grant.status());
    if (is_refused && by_credentials())
      return Finish(
          absl::UnauthenticatedError(absl::StrCat(text, ": the credentials given for it do not do")));
    return Finish(is_refused ? ErrorOfAnswer(401, text) : absl::Status(grant.status().code(), text));
  }
  if (request_.until == RegistryRequest::Until::kGrant) return Finish(absl::OkStatus());
  given_ = *std::move(grant);
  Attempt();
}

void Exchange::Finish(absl::Status status) {
  const std::unique_ptr<AnswerSink> sink = std::move(sink_);
  sink->OnDone(std::move(status));
}

}  // namespace

bool IsToldToEverybody(const absl::Status& not_found) {
  return not_found.GetPayload(kToldToEverybody).has_value();
}

std::optional<UrlMemory::Fact> UrlMemory::Find(const std::string& url) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(url);
  if (it == entries_.end()) return std::nullopt;
  if (it->second.expires > clock_.Now()) return it->second.fact;
  entries_.erase(it);
  return std::nullopt;
}

void UrlMemory::Put(const std::string& url, Fact fact) {
  const std::lock_guard lock(mutex_);
  if (entries_.size() >= kEntriesMax) entries_.clear();
  entries_.insert_or_assign(url, Entry{std::move(fact), clock_.Now() + ttl_});
}

void UrlMemory::Forget(const std::string& url) {
  const std::lock_guard lock(mutex_);
  entries_.erase(url);
}

RegistryCore::RegistryCore(RegistryClient::Parts p, RegistryOptions o)
    : parts(p),
      options(std::move(o)),
      http({.ca_file = options.ca_file,
            .user_agent = options.user_agent,
            .connect_timeout = options.connect_timeout,
            .requests_per_host_max = options.requests_per_host_max}),
      credentials(options.docker_config_path),
      breaker(options.breaker_failures_max, options.breaker_open_time, parts.clock),
      patience(parts.clock),
      backoff(options.backoff_first, options.backoff_max, options.random_seed),
      authorizer(Authorizer::Create({parts.clock, parts.executor, *this, credentials, breaker, backoff},
                                    {.client_id = options.user_agent,
                                     .retries_max = options.retries_max,
                                     .retry_after_max = options.retry_after_max,
                                     .shared_token = options.shared_token})),
      not_found(options.not_found_ttl, parts.clock),
      redirects(options.redirect_ttl, parts.clock) {}

std::shared_ptr<Authorizer> RegistryCore::AuthorizerOf(std::shared_ptr<Credentials> given) {
  Authorizer::Parts with{parts.clock, parts.executor, *this, *given, breaker, backoff, given};
  return Authorizer::Create(std::move(with), {.client_id = options.user_agent,
                                              .retries_max = options.retries_max,
                                              .retry_after_max = options.retry_after_max});
}

absl::StatusOr<AccessNeed> RegistryCore::PullNeed(const BlobOrigin& origin) const {
  const absl::StatusOr<Url> url = RepositoryUrl(origin);
  if (!url.ok()) return url.status();
  return AccessNeed{.registry = origin.registry,
                    .url = *url,
                    .repository = origin.repository,
                    .scopes = ScopeSet::Repository(origin.repository, "pull"),
                    .loopback = LoopbackRule::kRefuse,
                    .probe = AccessNeed::Probe::kNo};
}

absl::StatusOr<Url> RegistryCore::RepositoryUrl(const BlobOrigin& origin) const {
  {
    const std::lock_guard lock(urls_mutex_);
    if (const auto found = urls_.find(origin); found != urls_.end()) return found->second;
  }
  absl::StatusOr<Url> url = MakeRepositoryUrl(origin);
  if (!url.ok()) return url;
  const std::lock_guard lock(urls_mutex_);
  if (urls_.size() == kUrlsMax) urls_.clear();
  urls_.emplace(origin, *url);
  return url;
}

absl::StatusOr<Url> RegistryCore::MakeRepositoryUrl(const BlobOrigin& origin) const {
  if (!IsRepositoryName(origin.repository)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(origin.repository), " is no repository name"));
  }
  const auto stands_in = [&](const std::vector<std::string>& hosts) {
    return std::any_of(hosts.begin(), hosts.end(), [&](const std::string& host) {
      return absl::EqualsIgnoreCase(host, origin.registry);
    });
  };
  // Docker Hub's images bear a name that its registry does not listen to.
  const bool hub = origin.registry == "docker.io" || origin.registry == "index.docker.io";
  const std::string host = hub ? "registry-1.docker.io" : origin.registry;
  absl::StatusOr<Url> https = Url::Parse(absl::StrCat("https://", host, "/v2/", origin.repository));
  if (!https.ok() || absl::StrContains(host, '/')) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(host), " is no registry"));
  }
  const bool loopback_plain = NamesLoopback(https->host()) && !stands_in(options.loopback_https);
  if (!loopback_plain && !stands_in(options.plain_http)) return https;
  return Url::Parse(absl::StrCat("http://", host, "/v2/", origin.repository));
}

void RegistryCore::Count(int status) const {
  parts.telemetry.origin_requests[status >= 100 && status < 600 ? status / 100 : 0].Add();
}

namespace {

// Counts what comes from a token server, as of all origins.
class CountingSink final : public HttpSink {
 public:
  CountingSink(Telemetry& telemetry, std::unique_ptr<HttpSink> sink)
      : telemetry_(telemetry), sink_(std::move(sink)) {}
  absl::Status OnHead(const HttpHead& head) override {
    status_ = head.status;
    return sink_->OnHead(head);
  }
  absl::Status OnBody(std::span<const std::byte> bytes) override {
    telemetry_.origin_bytes.Add(bytes.size());
    return sink_->OnBody(bytes);
  }
  void OnDone(absl::Status status) override {
    telemetry_.origin_requests[status_ >= 100 && status_ < 600 ? status_ / 100 : 0].Add();
    sink_->OnDone(std::move(status));
  }

 private:
  Telemetry& telemetry_;
  const std::unique_ptr<HttpSink> sink_;
  int status_ = 0;
};

}  // namespace

void RegistryCore::Ask(HttpRequest request, std::unique_ptr<HttpSink> sink) {
  http.Send(std::move(request), std::make_unique<CountingSink>(parts.telemetry, std::move(sink)));
}

absl::Status JudgeStep(const Url& from, const Url& to, LoopbackRule loopback) {
  if (from.secure() && !to.secure()) {
    return absl::PermissionDeniedError(
        absl::StrCat("a step from https to plain http is refused: ", to.Redacted()));
  }
  if (NamesLinkLocal(to.host())) {
    return absl::PermissionDeniedError(
        absl::StrCat("a step to a link-local address is refused: ", to.Redacted()));
  }
  if (loopback == LoopbackRule::kRefuse && NamesLoopback(to.host())) {
    return absl::PermissionDeniedError(
        absl::StrCat("a step to loopback is refused for a registry elsewhere: ", to.Redacted()));
  }
  return absl::OkStatus();
}

std::shared_ptr<PacedControl> StartExchange(std::shared_ptr<RegistryCore> core, RegistryRequest request,
                                            std::unique_ptr<AnswerSink> sink) {
  auto exchange = std::make_shared<Exchange>(std::move(core), std::move(request), std::move(sink));
  exchange->Start();
  return exchange;
}

}  // namespace sluice::p2p
