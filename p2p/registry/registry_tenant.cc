// What registries say to others than this node.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "p2p/http/url.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/registry_call.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {
namespace {

using TenantAnswer = RegistryClient::TenantAnswer;
using Verdict = TenantAnswer::Verdict;

constexpr size_t kChallengeMax = 4 << 10;  // of what is passed on

// Errors: Unavailable.
absl::StatusOr<TenantAnswer> Read(const HttpHead& head) {
  // A redirect leads to where the bytes are.
  if (head.status >= 200 && head.status < 400) return TenantAnswer{Verdict::kGiven};
  if (head.status == 404) return TenantAnswer{Verdict::kAbsent};
  if (head.status == 403) return TenantAnswer{Verdict::kDenied};
  if (head.status != 401) return absl::UnavailableError(absl::StrCat("the registry answers ", head.status));
  std::vector<std::string> challenges;
  for (const std::string_view value : head.headers.All("WWW-Authenticate")) challenges.emplace_back(value);
  std::string challenge = absl::StrJoin(challenges, ", ");
  // Without one nobody can do better.
  if (challenge.empty() || challenge.size() > kChallengeMax) return TenantAnswer{Verdict::kDenied};
  return TenantAnswer{Verdict::kChallenged, std::move(challenge)};
}

class TenantSink final : public HttpSink {
 public:
  explicit TenantSink(RegistryClient::Done<TenantAnswer> done) : done_(std::move(done)) {}

  absl::Status OnHead(const HttpHead& head) override {
    answer_ = Read(head);
    return absl::OkStatus();
  }
  absl::Status OnBody(std::span<const std::byte>) override { return absl::OkStatus(); }
  void OnDone(absl::Status status) override {
    if (!status.ok()) return std::move(done_)(std::move(status));
    std::move(done_)(std::move(answer_));
  }

 private:
  RegistryClient::Done<TenantAnswer> done_;
  absl::StatusOr<TenantAnswer> answer_ = absl::UnavailableError("no answer");
};

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
  if (!authorization.empty()) request.headers.Add("Authorization", authorization);
  core_->http.Send(std::move(request), std::make_unique<TenantSink>(std::move(done)));
}

}  // namespace sluice::p2p
