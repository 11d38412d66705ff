#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/admin_backend.h"
#include "node/cache_activity.h"
#include "node/chunk_set.h"
#include "node/daemon/log.h"
#include "node/daemon/source_rates.h"

namespace sluice {

// A blob's chunks, at most kCellsMax of them, or as many runs of equally many: one digit for each, from '0',
// none of its chunks is that, to '9', all are.
struct PresenceCells {
  static constexpr uint32_t kCellsMax = 128;

  std::string present;
  std::string verified;
  std::string under_way;
};
// REQUIRES: the sets are equally large, and not empty
PresenceCells CellsOf(const ChunkSet& present, const ChunkSet& verified, const ChunkSet& under_way);

// What the page shows of a blob.
struct PageBlob {
  Digest digest;
  uint64_t size_bytes = 0;
  uint32_t chunk_bytes = 0;
  ChunkSet present, verified, under_way;  // of no chunks if the store has not got the blob
};

struct PageMount {
  api::MountInfo info;
  std::vector<PageBlob> blobs;  // of info.blobs, the first
};

// All that the page shows.
struct PageFacts {
  static constexpr size_t kMountsMax = 64;
  static constexpr size_t kBlobsMax = 256;  // of all mounts
  static constexpr size_t kPeersMax = 100;

  api::NodeStatus status;
  SourceRates::Series rates;
  std::vector<PageMount> mounts;  // the first of status.mount_count
  // None: the core loop does not come round.
  std::optional<CacheActivity> activity;
  api::PeersReport peers;
  std::vector<DaemonLog::Line> errors;
};

// Whether it says what images, nodes and paths are called, and what was logged.
enum class PageNames { kHidden, kShown };

// As JSON, of bounded length.
std::string PageJson(const PageFacts& facts, PageNames names);

}  // namespace sluice
