#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "node/executor.h"
#include "p2p/http/url.h"

namespace sluice::p2p {

inline constexpr size_t kChallengeBytesMax = 8 << 10;
inline constexpr size_t kTokenBytesMax = 64 << 10;
inline constexpr size_t kScopeBytesMax = 8 << 10;

enum class AuthScheme { kBasic, kBearer };

// How a registry wants to be spoken to, as it says with a 401.
struct AuthChallenge {
  AuthScheme scheme = AuthScheme::kBasic;
  std::string realm;  // Bearer: the URL that gives tokens
  std::string service;
  std::string scope;
};

// Chooses among the values of an answer's WWW-Authenticate headers: Bearer if it is offered, else Basic.
// Errors: NotFound (no header, or no scheme that we speak), InvalidArgument (malformed, or too long).
// Source: RFC 7235 section 4.1, RFC 6750 section 3, distribution specification "Token Authentication".
absl::StatusOr<AuthChallenge> SelectChallenge(const std::vector<std::string_view>& values);

// May the secrets that the user gave for `registry` be sent to the token server at `realm`?
enum class RealmTrust {
  kCredentials,  // yes: the same host, or by https one of the registry's own domain
  kAnonymous,    // no, but a token may be asked for without them
};
// Errors: PermissionDenied if the realm may not be asked at all: a step from https to http, or a link-local
// address, or a loopback one named by a registry that is not on loopback.
absl::StatusOr<RealmTrust> JudgeRealm(const Url& registry, const Url& realm);

struct AccessToken {
  std::string value;
  Duration lifetime{};               // from when it came; the answer's issued_at is a stranger's clock
  std::optional<std::string> scope;  // what was granted, where the answer says so
};
// Reads a token server's answer. Errors: DataLoss; the message never quotes the answer.
absl::StatusOr<AccessToken> ParseTokenAnswer(std::string_view json);

// What a token says itself that it is good for, as scopes parted by blanks: the claim "access" of a JSON web
// token, whose signature is not looked at. nullopt: it says nothing. Sources: RFC 7519, distribution
// specification "Token Authentication Implementation", "access".
std::optional<std::string> ScopeInToken(std::string_view token);

}  // namespace sluice::p2p
