#include "p2p/registry/registry_auth.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "p2p/http/url.h"
#include "p2p/registry/token_scope.h"
#include "taken.h"

namespace {

sluice::fuzz::Parser challenge_parser("challenges");
sluice::fuzz::Parser token_parser("token answers");
sluice::fuzz::Parser url_parser("URLs");
sluice::fuzz::Parser scope_parser("scopes");

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  std::vector<std::string_view> headers;
  for (size_t begin = 0; begin <= bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    headers.push_back(bytes.substr(begin, end - begin));
    begin = end + 1;
  }
  if (const auto challenge = sluice::p2p::SelectChallenge(headers); challenge.ok()) {
    challenge_parser.Took();
    // Without a realm there is nobody to ask for a token.
    if (challenge->scheme == sluice::p2p::AuthScheme::kBearer && challenge->realm.empty()) std::abort();
  }
  if (const auto token = sluice::p2p::ParseTokenAnswer(bytes); token.ok()) {
    token_parser.Took();
    if (token->value.empty() || token->lifetime < sluice::Duration::zero()) std::abort();
  }
  if (const auto scopes = sluice::p2p::ScopeSet::Parse(bytes); !scopes.empty()) {
    scope_parser.Took();
    const bool bounded = scopes.Texts().size() <= sluice::p2p::ScopeSet::kResourcesMax;
    if (!bounded || !scopes.Covers(scopes) || scopes.CommonWith(scopes) != scopes) std::abort();
  }
  if (const auto url = sluice::p2p::Url::Parse(bytes); url.ok()) {
    url_parser.Took();
    const auto again = sluice::p2p::Url::Parse(url->ToString());
    if (!again.ok() || again->ToString() != url->ToString() || again->Authority() != url->Authority())
      std::abort();
  }
  return 0;
}
