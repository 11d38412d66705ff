#include "api/http/peer_response.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace sluice::api {
namespace {

absl::string_view View(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

HttpResponse ErrorResponse(unsigned status, std::string_view code, std::string_view message) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  response.body =
      absl::StrCat(R"({"errors":[{"code":")", View(code), R"(","message":")", View(message), "\"}]}\n");
  return response;
}

HttpResponse NotHere() {
  return ErrorResponse(404, "BLOB_UNKNOWN", "it is not on this node, or not for everybody");
}

HttpResponse ComeAgain(Duration retry, const std::vector<std::string>& helpers) {
  HttpResponse response = ErrorResponse(503, "TOOMANYREQUESTS", "come again, or ask the helpers");
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(retry).count();
  response.headers.emplace_back("Sluice-Retry-Ms", absl::StrCat(std::max<int64_t>(1, ms)));
  if (!helpers.empty()) response.headers.emplace_back("Sluice-Helpers", absl::StrJoin(helpers, ","));
  return response;
}

void SayPublic(HttpResponse& response, PeerTrust trust, bool is_public, Duration public_age) {
  if (trust != PeerTrust::kProven) return;
  response.headers.emplace_back("Sluice-Public", is_public ? "1" : "0");
  if (!is_public) return;
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(public_age).count();
  response.headers.emplace_back("Sluice-Public-Age", absl::StrCat(std::max<int64_t>(0, seconds)));
}

absl::StatusOr<std::string> ReadToken(const HttpRequest& request, PeerTrust trust) {
  const std::string_view token = request.Header("Sluice-Token");
  if (trust != PeerTrust::kProven || token.empty()) return std::string();
  if (!IsPeerToken(token)) return absl::InvalidArgumentError("malformed Sluice-Token");
  return std::string(token);
}

std::string EntityTag(const Digest& digest) {
  return absl::StrCat("\"", digest.ToString(), "\"");
}

bool MatchesTag(std::string_view list, const std::string& tag) {
  for (absl::string_view part : absl::StrSplit(View(list), ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (absl::StartsWith(part, "W/")) part.remove_prefix(2);
    if (part == "*" || part == tag) return true;
  }
  return false;
}

void PeerAnswers::Send(HttpResponse response, HttpResponder responder, PeerRole role) const {
  const PeerAnswer kind = response.status < 400    ? PeerAnswer::kServed
                          : response.status == 404 ? PeerAnswer::kAbsent
                          : response.status == 503 ? PeerAnswer::kBusy
                                                   : PeerAnswer::kRefused;
  telemetry_.peer_answers[static_cast<size_t>(role)][static_cast<size_t>(kind)].Add();
  response.headers.emplace_back("Sluice-Node", node_id_);
  std::move(responder).Answer(std::move(response));
}

}  // namespace sluice::api
