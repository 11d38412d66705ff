#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "api/http/mirror_content.h"
#include "index/disk_store.h"
#include "node/blob.h"
#include "node/blob_cache.h"
#include "node/chunk_source.h"
#include "node/daemon/background_fill.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "node/telemetry.h"

namespace sluice {

// A blob that a container runtime pulls through the cache. Who wants all of it has it filled meanwhile. What
// no recipe proves is given as it came, as a registry's own bytes are: the runtime holds them against the
// digest.
class CachedMirrorBlob final : public api::MirrorBlob, public std::enable_shared_from_this<CachedMirrorBlob> {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;
    index::DiskStore& store;
    BlobCache& cache;
    BackgroundFill& fills;
    Telemetry& telemetry;
  };
  struct Limits {
    Duration first_part;  // to have the first bytes
    Duration next_part;   // and any others
  };
  // What it took to hear of it, and when that was found out: as DiskStore::NoteAccess has it.
  struct Finding {
    OriginAccess access = OriginAccess::kUnknown;
    int64_t at_ms = 0;
  };
  // By whose right it is fetched; told, on the core loop, that the registry refuses it to him.
  struct Right {
    Grant grant = nullptr;  // null: this node's own
    std::function<void()> on_refused = [] {};
  };
  // The parts outlive the cache's reads and the server. REQUIRES: the spec has one origin
  CachedMirrorBlob(Parts parts, Limits limits, BlobSpec spec, Finding finding, Right right)
      : parts_(parts),
        limits_(limits),
        spec_(std::move(spec)),
        finding_(finding),
        right_(std::make_shared<const Right>(std::move(right))) {}

  uint64_t size() const override { return spec_.size; }
  void Open(ByteRange range, OnOpen on_open) override;

 private:
  const Parts parts_;
  const Limits limits_;
  const BlobSpec spec_;
  const Finding finding_;
  const std::shared_ptr<const Right> right_;
};

}  // namespace sluice
