#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "api/http/mirror_content.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Who may have what took credentials to get: the registry decides, by what the one who asks shows it. What it
// lets one have of a repository holds for kGivenTtl; a refusal is asked for anew each time.
//
// A runtime that has credentials and sends none, though it was told that they are needed, is sent on to the
// registry for kNoCredentialsTtl.
//
// Thread-safe. The parts outlive this, and the client is stopped before it ends.
class MirrorTenants {
 public:
  static constexpr Duration kGivenTtl = std::chrono::minutes(5);
  static constexpr Duration kNoCredentialsTtl = std::chrono::seconds(60);
  static constexpr size_t kEntriesMax = 4096;  // of each kind; the one that ends first goes first

  MirrorTenants(const Clock& clock, p2p::RegistryClient& registry, Telemetry& telemetry)
      : clock_(clock), registry_(registry), telemetry_(telemetry) {}

  // Nothing: who asks may have it. Comes exactly once, in the call or on a thread of the client's, after
  // `timeout` at the latest. While the registry is away nobody may.
  using Done = absl::AnyInvocable<void(std::optional<api::MirrorRefusal>) &&>;
  void Ask(const api::MirrorRequest& request, Duration timeout, Done done);

 private:
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

  std::mutex mutex_;  // guards what follows
  // By the hash of the repository and what was shown: until when it is given.
  std::map<Digest, Instant> given_;
  std::map<std::string, WithoutCredentials> without_;  // by repository
};

}  // namespace sluice
