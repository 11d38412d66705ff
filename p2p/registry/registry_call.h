#pragma once

#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/origin_access.h"
#include "p2p/http/http_client.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/registry_client.h"
#include "p2p/registry/registry_exchange.h"

namespace sluice::p2p {

// Requests to a registry whose answers are small and kept whole: what the parts of RegistryClient share.
struct Answer {
  HttpHead head;
  std::string body;
  OriginAccess access = OriginAccess::kUnknown;
};
using AnswerDone = RegistryClient::Done<Answer>;

// `done` is called as those of RegistryClient are.
void Call(const std::shared_ptr<RegistryCore>& core, RegistryRequest request, AnswerDone done);
// Blocks.
absl::StatusOr<Answer> CallAndWait(const std::shared_ptr<RegistryCore>& core, RegistryRequest request);

// Runs `start` with a callback and waits for it.
template <typename T, typename Start>
absl::StatusOr<T> Wait(Start start) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<T>>>();
  std::future<absl::StatusOr<T>> future = promise->get_future();
  start([promise](absl::StatusOr<T> result) { promise->set_value(std::move(result)); });
  return future.get();
}

// The Content-Type in lower case, without parameters.
std::string MediaTypeOf(const HttpHead& head);
// Errors: InvalidArgument.
absl::Status CheckTagOrDigest(std::string_view text);

// Below a repository. Source: distribution specification, "Endpoints".
std::string BlobPath(const Digest& digest);
std::string ManifestPath(std::string_view tag_or_digest);
// Source: distribution specification, "Referrers Tag Schema".
std::string ReferrersTag(const Digest& manifest);

RegistryRequest ManifestRequest(const RegistryCore& core, const BlobOrigin& origin,
                                std::string_view tag_or_digest, const std::vector<std::string>& accept);
// The index of referrers that an answer holds; an empty one if there is no such list. Errors: the answer's;
// DataLoss if it holds something else.
absl::StatusOr<ImageIndex> IndexOf(absl::StatusOr<Answer> answer);

}  // namespace sluice::p2p
