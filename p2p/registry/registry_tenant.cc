// What registries say, and give, to others than this node.
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/peer_trust.h"
#include "node/secret.h"
#include "p2p/http/text.h"
#include "p2p/http/url.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_grant.h"
#include "p2p/registry/registry_auth.h"
#include "p2p/registry/registry_call.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/registry_exchange.h"
#include "p2p/registry/token_scope.h"

namespace sluice::p2p {
namespace {

using TenantAnswer = RegistryClient::TenantAnswer;
using Verdict = TenantAnswer::Verdict;

constexpr size_t kChallengeMax = 4 << 10;  // of what is passed on

// A head, as far as it says who may have something. `is_elsewhere`: it leads to another place.
struct Judged {
  TenantAnswer answer;
  bool is_elsewhere = false;
};

// Errors: Unavailable.
absl::StatusOr<Judged> Judge(const HttpHead& head) {
  if (head.status >= 200 && head.status < 300) return Judged{{Verdict::kGiven}};
  if (head.status >= 300 && head.status < 400) return Judged{{Verdict::kAbsent}, /*is_elsewhere=*/true};
  if (head.status == 404) return Judged{{Verdict::kAbsent}};
  if (head.status == 403) return Judged{{Verdict::kDenied}};
  if (head.status != 401) return absl::UnavailableError(absl::StrCat("the registry answers ", head.status));
  std::vector<std::string> challenges;
  for (const std::string_view value : head.headers.All("WWW-Authenticate")) challenges.emplace_back(value);
  std::string challenge = absl::StrJoin(challenges, ", ");
  // Without one nobody can do better.
  if (challenge.empty() || challenge.size() > kChallengeMax) return Judged{{Verdict::kDenied}};
  return Judged{{Verdict::kChallenged, std::move(challenge)}};
}

class TenantSink final : public HttpSink {
 public:
  explicit TenantSink(RegistryClient::Done<Judged> done) : done_(std::move(done)) {}

  absl::Status OnHead(const HttpHead& head) override {
    answer_ = Judge(head);
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte>) override { return absl::OkStatus(); }
  void OnDone(absl::Status status) override {
    if (!status.ok()) return std::move(done_)(std::move(status));
    std::move(done_)(std::move(answer_));
  }

 private:
  RegistryClient::Done<Judged> done_;
  absl::StatusOr<Judged> answer_ = absl::UnavailableError("no answer");
};

void Send(RegistryCore& core, HttpRequest request, const std::string& authorization,
          RegistryClient::Done<Judged> done) {
  if (!authorization.empty()) request.headers.Add("Authorization", authorization);
  core.http.Send(std::move(request), std::make_unique<TenantSink>(std::move(done)));
}

}  // namespace

void RegistryClient::AskAs(const std::string& authorization, const BlobOrigin& origin, Object object,
                           const std::string& tag_or_digest, Duration timeout, Done<TenantAnswer> done) {
  if (absl::Status status = CheckTagOrDigest(tag_or_digest); !status.ok()) return std::move(done)(status);
  const absl::StatusOr<AccessNeed> need = core_->PullNeed(origin);
  if (!need.ok()) return std::move(done)(need.status());
  HttpRequest request;
  request.method = "HEAD";
  request.url =
      absl::StrCat(need->url.ToString(), object == Object::kBlob ? absl::StrCat("/blobs/", tag_or_digest)
                                                                 : ManifestPath(tag_or_digest));
  request.loopback = NamesLoopback(need->url.host()) ? LoopbackRule::kAllow : LoopbackRule::kRefuse;
  request.timeout = timeout;
  // In one line: some take the last of several.
  const std::vector<std::string> types = {
      std::string(media_type::kOciManifest), std::string(media_type::kOciIndex),
      std::string(media_type::kDockerManifest), std::string(media_type::kDockerManifestList)};
  request.headers.Add("Accept", absl::StrJoin(types, ", "));
  auto judge = [core = core_, request, object, is_stranger = authorization.empty(),
                done = std::move(done)](absl::StatusOr<Judged> asked) mutable {
    if (!asked.ok()) return std::move(done)(std::move(asked).status());
    // Blobs lie elsewhere with many registries. Where strangers are led elsewhere, too, perhaps to be asked
    // who they are, that says nothing.
    if (!asked->is_elsewhere || is_stranger || object != Object::kBlob) return std::move(done)(asked->answer);
    Send(*core, std::move(request), "", [done = std::move(done)](absl::StatusOr<Judged> stranger) mutable {
      if (!stranger.ok()) return std::move(done)(std::move(stranger).status());
      std::move(done)(TenantAnswer{stranger->is_elsewhere ? Verdict::kAbsent : Verdict::kGiven});
    });
  };
  Send(*core_, std::move(request), authorization, std::move(judge));
}

namespace {

// What follows the scheme; nothing if it is of another one. Source: RFC 9110 section 11.4.
std::optional<std::string_view> OfScheme(std::string_view authorization, std::string_view scheme) {
  if (!absl::StartsWithIgnoreCase(Abs(authorization), absl::StrCat(Abs(scheme), " "))) return std::nullopt;
  return Std(absl::StripAsciiWhitespace(Abs(authorization.substr(scheme.size() + 1))));
}

// One that says nothing of itself may be a password.
bool IsForPullingAlone(std::string_view token, const std::string& repository) {
  if (!IsPeerToken(token)) return false;
  const std::optional<std::string> says = ScopeInToken(token);
  if (!says) return false;
  const ScopeSet scopes = ScopeSet::Parse(*says);
  return !scopes.empty() && ScopeSet::Repository(repository, "pull").Covers(scopes);
}

}  // namespace

Grant RegistryClient::RightOfTenant(const std::string& authorization, const BlobOrigin& origin) {
  if (const std::optional<std::string_view> token = OfScheme(authorization, "Bearer"); token) {
    if (token->empty()) return nullptr;
    const bool is_narrow = IsForPullingAlone(*token, origin.repository);
    return PullGrant::OfToken(std::string(*token),
                              is_narrow ? PullGrant::Shown::kToMembers : PullGrant::Shown::kToRegistry);
  }
  const std::optional<std::string_view> pair = OfScheme(authorization, "Basic");
  std::string decoded;
  if (!pair || !absl::Base64Unescape(Abs(*pair), &decoded)) return nullptr;
  const size_t colon = decoded.find(':');
  if (colon == std::string::npos) return nullptr;
  return LogIn(origin.registry, decoded.substr(0, colon), Secret(decoded.substr(colon + 1)));
}

}  // namespace sluice::p2p
