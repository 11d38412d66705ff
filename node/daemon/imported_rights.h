#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "index/disk_store.h"
#include "node/blob.h"
#include "node/digest.h"
#include "node/executor.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Whose registries have what was imported. Nobody knows by whose right containerd got a blob, so it is
// private until the registry that an asker names says, to this node, that its repository has it: without
// credentials, and then it is public there, or by this node's own. No byte of a blob is asked for.
//
// Thread-safe. The registry client and the store outlive it, and it what they have under way; it is held by
// what serves, and destroyed after the registry client was stopped.
class ImportedRights {
 public:
  static constexpr size_t kAskingMax = 64;     // questions under way
  static constexpr size_t kWaitingMax = 1024;  // who waits for them
  static constexpr size_t kRefusedMax = 4096;  // answers remembered
  static constexpr Duration kRefusedKept = std::chrono::seconds(60);
  static constexpr Duration kSilenceKept = std::chrono::seconds(5);  // where there was no answer

  struct Parts {
    const Clock& clock;
    Executor& io;
    index::DiskStore& store;
    p2p::RegistryClient& registry;
  };
  explicit ImportedRights(Parts parts) : parts_(parts), shared_(std::make_shared<Shared>()) {}

  // Whether there is nothing to find out: the blob was not imported, the store knows how that repository
  // gives it, or it was found out lately that it does not. Else it is asked, and `then` (may be null) is
  // called once when the store knows, on the I/O pool. What is asked too often at once counts as found out.
  // May block on a lock.
  bool Know(const Digest& digest, const BlobOrigin& origin, uint64_t size, Task then);

 private:
  using Question = std::pair<BlobOrigin, Digest>;
  struct Shared {
    std::mutex mutex;
    // Guarded by mutex.
    std::map<Question, std::vector<Task>> asking;
    size_t waiting = 0;
    std::map<Question, Instant> refused;  // until when
  };
  static void Answered(const Parts& parts, const std::shared_ptr<Shared>& shared, const Question& question,
                       uint64_t size, const absl::StatusOr<p2p::RegistryClient::BlobStat>& stat);
  static absl::Status Learn(const Parts& parts, const Question& question, uint64_t size,
                            const absl::StatusOr<p2p::RegistryClient::BlobStat>& stat);

  const Parts parts_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice
