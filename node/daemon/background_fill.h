#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "api/admin_backend.h"
#include "node/blob_cache.h"
#include "node/blob_key.h"
#include "node/chunk_source.h"
#include "node/executor.h"

namespace sluice {

// Who wants a blob whole. All mounts together are one: the mounter knows which of them are left.
enum class FillOwner : uint64_t { kMounts = 0 };

// Brings blobs in whole, and tries again for as long as anybody wants that: the registry may be away for
// hours. A blob that several want by one right is filled once, in the highest class that any of them asked
// for.
//
// Thread-safe.
class BackgroundFill {
  struct Shared;
  // The blob, and by whose right it is asked for; null: this node's own.
  using Name = std::pair<BlobKey, Grant>;

 public:
  struct Limits {
    Duration retry_first = std::chrono::seconds(1);
    Duration retry_max = std::chrono::seconds(60);
  };
  struct Progress {
    api::FillState state = api::FillState::kIdle;
    std::string error;  // of the last try that failed
  };
  // Told of each try's end: OK once the blob is complete, else why it failed; then it is tried again. On the
  // core loop, and perhaps once more after Stop has returned. It may call Start and Stop.
  using OnTry = std::function<void(const absl::Status&)>;

  // An owner of its own for as long as it lives. It may outlive the fills: whoever waits for a read holds it.
  class Hold {
   public:
    Hold(BackgroundFill& fills, const BlobKey& key, FetchClass fetch_class, Grant grant = nullptr);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    const std::shared_ptr<Shared> shared_;
    const Name name_;
    const FillOwner owner_;
  };

  BackgroundFill(const Clock& clock, Executor& core, BlobCache& cache, Limits limits);
  // Stops all.
  ~BackgroundFill();

  // One that nobody has been before.
  FillOwner NewOwner();

  // From now on `owner` wants the blob. No-op if it did already; a fill that waits to be tried again is tried
  // at once for a new owner. REQUIRES: fetch_class is not kDemand
  void Start(const BlobKey& key, FetchClass fetch_class, FillOwner owner, OnTry on_try = nullptr);
  // From now on `owner` does not. The fill ends with its last owner; what has arrived stays. No-op if it was
  // not started.
  void Stop(const BlobKey& key, FillOwner owner);
  // Drained, what only mounts want is not brought in, and waits idly until that is over.
  void SetDrain(api::DrainState state);
  // By this node's own right, whoever it is for.
  Progress Of(const BlobKey& key) const;

 private:
  void Start(const Name& name, FetchClass fetch_class, FillOwner owner, OnTry on_try);
  static void Stop(Shared& shared, const Name& name, FillOwner owner);
  static void Try(const std::shared_ptr<Shared>& shared, const Name& name, uint64_t run,
                  Duration retry_after);
  static void EndTry(const std::shared_ptr<Shared>& shared, const Name& name, uint64_t run,
                     Duration retry_after, const absl::Status& status);

  // Also held by callbacks that come late.
  const std::shared_ptr<Shared> shared_;
};

}  // namespace sluice
