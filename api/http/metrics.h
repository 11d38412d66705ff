#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "node/image_counters.h"
#include "node/telemetry.h"

namespace sluice::api {

// What the keeper counts itself, since it started.
struct KeeperCounts {
  uint64_t hits = 0;       // answered from the presence bitmap
  uint64_t hit_bytes = 0;  // of these
  uint64_t published = 0;  // handed to the daemon
  uint64_t expired = 0;    // of these, refused at their deadline
  uint64_t denied = 0;     // refused at once: unknown or changed file, beyond its end, just failed
  uint64_t errors = 0;     // that could not be read or answered
  uint64_t failed = 0;     // reads that got an error of which the daemon does not know
};

// What is exported beside Telemetry.
struct MetricsExtras {
  std::string version;
  std::string revision;                   // of the source, or "unknown"
  std::string backend = "off";            // that serves mounts
  const ImageCounters* images = nullptr;  // outlives this; null: none is counted
  // Called at each export; may be null.
  absl::AnyInvocable<KeeperCounts() const> keeper = nullptr;
  absl::AnyInvocable<uint64_t() const> kernel_cache_bytes = nullptr;  // of the kernel's own copies, on disk
  absl::AnyInvocable<uint64_t() const> log_dropped = nullptr;         // lines, of the daemon and the keeper
};

// The node's metrics in Prometheus' text format (exposition format 0.0.4). All series are there from the
// start with value 0; no label ever carries a digest, an image or an address.
//
// Thread-safe as far as `extras.keeper` is.
class Metrics {
 public:
  static constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

  // `telemetry` outlives this.
  Metrics(const Telemetry& telemetry, MetricsExtras extras);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  std::string Text() const;

 private:
  class Collector;
  const std::unique_ptr<Collector> collector_;
};

}  // namespace sluice::api
