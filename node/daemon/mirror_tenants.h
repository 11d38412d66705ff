#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "api/http/mirror_content.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Who may have what took credentials to get: the registry decides, by what the one who asks shows it. What it
// lets one have of a repository holds for kGivenTtl; a refusal is asked for anew each time. Where this node
// has no right of its own, what one wants is fetched by what he shows, which is kept in memory for as long.
//
// A runtime that has credentials and sends none, though it was told that they are needed, is sent on to the
// registry for kNoCredentialsTtl.
//
// Thread-safe. The parts outlive this, and the client is stopped before it ends.
class MirrorTenants {
 public:
  static constexpr Duration kGivenTtl = std::chrono::minutes(5);
  static constexpr Duration kNoCredentialsTtl = std::chrono::seconds(60);
  static constexpr Duration kOwnRefusedTtl = std::chrono::minutes(5);
  static constexpr size_t kEntriesMax = 4096;  // of each kind; the one that ends first goes first

  MirrorTenants(const Clock& clock, p2p::RegistryClient& registry, Telemetry& telemetry)
      : clock_(clock), registry_(registry), telemetry_(telemetry) {}

  // Nothing: who asks may have it. Comes exactly once, in the call or on a thread of the client's, after
  // `timeout` at the latest. While the registry is away nobody may.
  using Done = absl::AnyInvocable<void(std::optional<api::MirrorRefusal>) &&>;
  void Ask(const api::MirrorRequest& request, Duration timeout, Done done);

  // By which the registry gives it to who asks; null if he shows nothing that it could be asked by. Of one
  // whom the registry lets have it it is always the same, until that is over. REQUIRES: Ask has said nothing
  // of him
  Grant RightOf(const api::MirrorRequest& request);
  // The registry refused something to what he shows: it is asked anew what he may have.
  void Forget(const api::MirrorRequest& request);

  // This node's own right was refused by a repository: what is of it is got by the rights of those who ask.
  void NoteOwnRefused(const BlobOrigin& origin);
  bool IsOwnRefused(const BlobOrigin& origin);

 private:
  struct Given {
    Instant until{};
    Grant right = nullptr;  // once it was needed
  };
  struct WithoutCredentials {
    Instant until{};       // of what follows
    bool sent_on = false;  // to the registry; else challenged
  };
  std::optional<api::MirrorRefusal> Judge(const api::MirrorRequest& request,
                                          const absl::StatusOr<p2p::RegistryClient::TenantAnswer>& answer);
  std::optional<api::MirrorRefusal> Challenge(const std::string& place, std::string challenge);

  const Clock& clock_;
  p2p::RegistryClient& registry_;
  Telemetry& telemetry_;

  std::mutex mutex_;                                   // guards what follows
  std::map<Digest, Given> given_;                      // by the hash of the repository and what was shown
  std::map<std::string, WithoutCredentials> without_;  // by repository
  std::map<std::string, Instant> own_refused_until_;   // likewise
};

}  // namespace sluice
