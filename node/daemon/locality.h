#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "api/locality_backend.h"
#include "node/blob.h"
#include "node/daemon/image_preparer.h"
#include "node/executor.h"
#include "p2p/cluster/holders.h"

namespace sluice {

// How much of images is here, and on the other nodes by what they say of themselves.
//
// What images are is looked up at their registries, each once for all who ask, and kept for a moment; so is
// what the others have. An answer waits for no more than `lookup_wait` for the former, and then for no more
// than a question to other nodes takes.
//
// Thread-safe. Nothing blocks.
class Locality final : public api::LocalityBackend {
 public:
  using OnShares = absl::AnyInvocable<void(std::optional<std::vector<p2p::HolderShare>>) &&>;
  struct Parts {
    const Clock& clock;
    Executor& lookups;  // its threads may block on registries
    Executor& timers;
    ImagePreparer& preparer;
    std::function<uint64_t(const BlobSpec&)> present;  // bytes of it in the store
    // This node among the others, and what is known of who has a blob; null on a node that was told of no
    // others.
    std::function<std::string()> own_name;
    std::function<void(const p2p::BlobIdentity&, OnShares)> ask_shares;
  };
  struct Limits {
    Duration lookup_wait = std::chrono::seconds(2);
    size_t lookups_max = 256;                        // under way and queued; beyond: ResourceExhausted
    Duration image_kept = std::chrono::seconds(10);  // also an error
    size_t images_max = 1024;                        // kept
    // With what passes until a change is announced these are ten seconds.
    Duration shares_kept = std::chrono::seconds(3);
    size_t shares_max = 8192;       // blobs whose shares are kept
    size_t blobs_asked_max = 512;   // of one call; an image beyond: ResourceExhausted
    size_t questions_at_once = 32;  // of one call
    Duration retry_after = std::chrono::seconds(1);
  };

  // The parts outlive this and the tasks that it has posted.
  Locality(Parts parts, Limits limits);
  ~Locality() override;
  Locality(const Locality&) = delete;
  Locality& operator=(const Locality&) = delete;

  void GetLocality(const api::LocalityQuery& query, Instant deadline, OnLocality done) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace sluice
