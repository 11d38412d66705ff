#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/executor.h"
#include "p2p/registry/authorizer.h"

namespace sluice::p2p {

// Port: the tokens that other nodes may show for this one. Implemented by PullRights.
//
// Thread-safe.
class PullTokens {
 public:
  virtual ~PullTokens() = default;

  // The one that is at hand; empty if there is none. Asks nobody.
  virtual std::string Kept(const BlobOrigin& repository) = 0;
  // Another than `refused`, which may be empty; asks for it if need be. Called exactly once, on any thread.
  // Errors: NotFound (there is none that may be shown, or need be), and those of the registry client.
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::string>) &&>;
  virtual void Renew(const BlobOrigin& repository, const std::string& refused, Done done) = 0;
};

// What this node may pull by its own right. Before it serves anybody on this host with what other nodes gave
// of a repository that is not public it asks the registry for itself, and that is remembered: for as long as
// the token lives that the registry's token server gave for it, or a few minutes. Who asks for the same at
// the same time shares a question. Source: PEERS.md, "Public and private".
//
// Thread-safe; callbacks come on the registry client's threads, the executor's, or in the call.
class PullRights final : public PullTokens, public std::enable_shared_from_this<PullRights> {
 public:
  static constexpr size_t kFlightsMax = 256;   // questions under way; beyond: ResourceExhausted
  static constexpr size_t kWaitersMax = 4096;  // in all; beyond: ResourceExhausted
  static constexpr size_t kPublicMax = 1024;   // repositories; beyond, all that was said is forgotten

  explicit PullRights(std::shared_ptr<class RegistryCore> core) : core_(std::move(core)) {}

  // What this node may do in a repository that is said not to be public. `path` names something of it, e.g.
  // "/manifests/v1": that the registry gives it is the proof where no token is one. Errors: Unauthenticated,
  // PermissionDenied, NotFound (this node may not, or it is not there), and those of RegistryClient.
  using OnRight = absl::AnyInvocable<void(absl::StatusOr<PullRight>) &&>;
  void Prove(const BlobOrigin& repository, const std::string& path, OnRight done);

  std::string Kept(const BlobOrigin& repository) override;
  void Renew(const BlobOrigin& repository, const std::string& refused, Done done) override;

  // A proven member says that strangers get everything of it. Believed for as long as what this node finds
  // out itself would be.
  void NotePublic(const BlobOrigin& repository);
  // Whether this node has found that out lately, or a proven member says so.
  bool IsPublic(const BlobOrigin& repository);
  // Whether this node has found lately that strangers get nothing of it.
  bool TakesCredentials(const BlobOrigin& repository);

 private:
  using Waiters = std::vector<OnRight>;

  void Join(const std::string& key, OnRight done, absl::AnyInvocable<void() &&> start);
  void End(const std::string& key, const absl::StatusOr<PullRight>& right);
  void AskForToken(const AccessNeed& need, const BlobOrigin& repository,
                   absl::AnyInvocable<void(absl::Status) &&> done);
  void AskForPath(const AccessNeed& need, const BlobOrigin& repository, const std::string& path,
                  const std::string& key);

  const std::shared_ptr<class RegistryCore> core_;
  std::mutex mutex_;                        // guards what follows
  std::map<std::string, Waiters> flights_;  // by what is asked
  size_t waiters_ = 0;
  std::map<BlobOrigin, Instant> public_until_;  // as members say
};

}  // namespace sluice::p2p
