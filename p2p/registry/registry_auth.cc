#include "p2p/registry/registry_auth.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

// RFC 9110 section 5.6.2.
bool IsTokenChar(char c) {
  return absl::ascii_isalnum(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

// Reads a list of challenges: scheme SP name=value, name="value", ... where a word without '=' begins the
// next.
class ChallengeReader {
 public:
  explicit ChallengeReader(std::string_view text) : rest_(text) {}

  absl::StatusOr<std::vector<AuthChallenge>> Read() {
    std::vector<AuthChallenge> known;
    AuthChallenge* current = nullptr;
    for (SkipSeparators(); !rest_.empty(); SkipSeparators()) {
      const std::string word = absl::AsciiStrToLower(Abs(Token()));
      if (word.empty()) return Malformed();
      if (Consume('=')) {
        if (absl::Status status = Parameter(word, current); !status.ok()) return status;
        continue;
      }
      current = nullptr;
      const bool bearer = word == "bearer";
      if (!bearer && word != "basic") continue;
      current = &known.emplace_back();
      current->scheme = bearer ? AuthScheme::kBearer : AuthScheme::kBasic;
    }
    return known;
  }

 private:
  static absl::Status Malformed() { return absl::InvalidArgumentError("malformed WWW-Authenticate header"); }

  bool Consume(char c) {
    const bool found = rest_.starts_with(c);
    if (found) rest_.remove_prefix(1);
    return found;
  }

  void SkipSeparators() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t,"), rest_.size())); }

  std::string_view Token() {
    const auto end = std::find_if_not(rest_.begin(), rest_.end(), IsTokenChar);
    const std::string_view token = rest_.substr(0, static_cast<size_t>(end - rest_.begin()));
    rest_.remove_prefix(token.size());
    return token;
  }

  absl::StatusOr<std::string> Value() {
    if (!Consume('"')) return std::string(Token());
    std::string value;
    while (!rest_.empty()) {
      char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '"') return value;
      if (c == '\\') {
        if (rest_.empty()) break;
        c = rest_.front();
        rest_.remove_prefix(1);
      }
      if (absl::ascii_iscntrl(c)) break;
      value.push_back(c);
    }
    return Malformed();
  }

  absl::Status Parameter(std::string_view name, AuthChallenge* challenge) {
    absl::StatusOr<std::string> value = Value();
    if (!value.ok()) return value.status();
    if (challenge == nullptr) return absl::OkStatus();
    std::string* const field = name == "realm"     ? &challenge->realm
                               : name == "service" ? &challenge->service
                               : name == "scope"   ? &challenge->scope
                                                   : nullptr;
    if (field == nullptr) return absl::OkStatus();
    // RFC 6750 section 3: each of them at most once; a second one is somebody's attempt to be misread.
    if (!field->empty()) return Malformed();
    *field = *std::move(value);
    return absl::OkStatus();
  }

  std::string_view rest_;
};

}  // namespace

absl::StatusOr<AuthChallenge> SelectChallenge(const std::vector<std::string_view>& values) {
  size_t bytes = 0;
  std::optional<AuthChallenge> best;
  for (const std::string_view value : values) {
    bytes += value.size();
    if (bytes > kChallengeBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("WWW-Authenticate headers of more than ", kChallengeBytesMax, " bytes"));
    }
    absl::StatusOr<std::vector<AuthChallenge>> challenges = ChallengeReader(value).Read();
    if (!challenges.ok()) return challenges.status();
    for (AuthChallenge& challenge : *challenges) {
      if (!best || (best->scheme == AuthScheme::kBasic && challenge.scheme == AuthScheme::kBearer)) {
        best = std::move(challenge);
      }
    }
  }
  if (!best) return absl::NotFoundError("no Basic or Bearer challenge in the answer");
  if (best->scheme == AuthScheme::kBearer && best->realm.empty()) {
    return absl::InvalidArgumentError("Bearer challenge without a realm");
  }
  return *std::move(best);
}

// Whether one host is within the other's domain, or both are in one: registry-1.docker.io and auth.docker.io,
// registry.gitlab.example and gitlab.example. A domain has two labels at least.
static bool SharesDomain(std::string_view a, std::string_view b) {
  const auto within = [](std::string_view host, std::string_view domain) {
    return host == domain || (host.size() > domain.size() && host.ends_with(domain) &&
                              host[host.size() - domain.size() - 1] == '.');
  };
  const auto parent = [](std::string_view host) {
    return host.substr(std::min(host.find('.') + 1, host.size()));
  };
  const auto is_domain = [](std::string_view host) {
    return host.find('.') != std::string_view::npos &&
           host.find_first_not_of("0123456789.:") != std::string_view::npos;
  };
  if (!is_domain(a) || !is_domain(b)) return false;
  if (within(a, b) || within(b, a)) return true;
  return is_domain(parent(a)) && parent(a) == parent(b);
}

absl::StatusOr<RealmTrust> JudgeRealm(const Url& registry, const Url& realm) {
  if (registry.secure() && !realm.secure()) {
    return absl::PermissionDeniedError(absl::StrCat("registry ", registry.Authority(),
                                                    " is spoken to by https but names the plain http realm ",
                                                    realm.Redacted(), "; refused"));
  }
  if (NamesLinkLocal(realm.host())) {
    return absl::PermissionDeniedError(absl::StrCat(
        "registry ", registry.Authority(), " names a link-local realm, ", realm.Redacted(), "; refused"));
  }
  if (NamesLoopback(realm.host()) && !NamesLoopback(registry.host())) {
    return absl::PermissionDeniedError(absl::StrCat(
        "registry ", registry.Authority(), " names a realm on loopback, ", realm.Redacted(), "; refused"));
  }
  if (realm.host() == registry.host()) return RealmTrust::kCredentials;
  return registry.secure() && SharesDomain(registry.host(), realm.host()) ? RealmTrust::kCredentials
                                                                          : RealmTrust::kAnonymous;
}

absl::StatusOr<AccessToken> ParseTokenAnswer(std::string_view json) {
  const nlohmann::json answer = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object()) return absl::DataLossError("the token server's answer is no JSON object");
  AccessToken token;
  for (const char* name : {"token", "access_token"}) {
    const auto it = answer.find(name);
    if (token.value.empty() && it != answer.end() && it->is_string()) token.value = it->get<std::string>();
  }
  const bool clean = std::all_of(token.value.begin(), token.value.end(), absl::ascii_isgraph);
  if (token.value.empty() || !clean || token.value.size() > kTokenBytesMax) {
    return absl::DataLossError("the token server's answer holds no usable token");
  }
  // Token specification: without expires_in a token is good for 60 seconds, and it should never be for less.
  constexpr int64_t kSecondsMin = 60;
  constexpr int64_t kSecondsMax = 24 * 3600;
  int64_t seconds = kSecondsMin;
  const auto it = answer.find("expires_in");
  if (it != answer.end() && it->is_number_unsigned()) {
    seconds = static_cast<int64_t>(std::min<uint64_t>(it->get<uint64_t>(), kSecondsMax));
  }
  const auto scope = answer.find("scope");
  if (scope != answer.end() && scope->is_string() &&
      scope->get_ref<const std::string&>().size() <= kScopeBytesMax) {
    token.scope = scope->get<std::string>();
  }
  token.lifetime = std::chrono::seconds(std::clamp(seconds, kSecondsMin, kSecondsMax));
  return token;
}

namespace {

// One entry of the claim "access"; empty if it is malformed.
std::string ScopeOf(const nlohmann::json& entry) {
  const auto text = [](const nlohmann::json& value) {
    const std::string* const found = value.get_ptr<const std::string*>();
    const bool clean = found && std::all_of(found->begin(), found->end(), absl::ascii_isgraph);
    return clean ? *found : std::string();
  };
  if (!entry.is_object() || !entry.contains("actions") || !entry["actions"].is_array()) return {};
  const std::string type = text(entry.value("type", nlohmann::json()));
  const std::string name = text(entry.value("name", nlohmann::json()));
  std::vector<std::string> actions;
  for (const nlohmann::json& action : entry["actions"]) actions.push_back(text(action));
  if (type.empty() || name.empty() || actions.empty()) return {};
  return absl::StrCat(type, ":", name, ":", absl::StrJoin(actions, ","));
}

}  // namespace

std::optional<std::string> ScopeInToken(std::string_view token) {
  const size_t first = token.find('.');
  const size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos || token.size() > kTokenBytesMax) return std::nullopt;
  std::string text;
  if (!absl::WebSafeBase64Unescape(Abs(token.substr(first + 1, second - first - 1)), &text))
    return std::nullopt;
  const nlohmann::json claims = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!claims.is_object() || !claims.contains("access") || !claims["access"].is_array()) return std::nullopt;
  std::vector<std::string> scopes;
  for (const nlohmann::json& entry : claims["access"]) {
    if (std::string scope = ScopeOf(entry); !scope.empty()) scopes.push_back(std::move(scope));
  }
  return absl::StrJoin(scopes, " ");
}

}  // namespace sluice::p2p
