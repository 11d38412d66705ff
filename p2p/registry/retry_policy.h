#pragma once

#include <cstdint>
#include <ctime>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "node/executor.h"

namespace sluice::p2p {

// Whether the same request may succeed later, as an answer's status says.
bool MayPass(int status);

// Delays between attempts: exponential, with full jitter, so that many nodes don't come back at once.
//
// Thread-safe.
class Backoff {
 public:
  Backoff(Duration first, Duration max, uint64_t seed) : first_(first), max_(max), random_(seed) {}

  // Before the attempt after `failures` failures: uniform in [0, min(max, first * 2^(failures-1))].
  // REQUIRES: failures > 0
  Duration Delay(uint32_t failures);

 private:
  const Duration first_;
  const Duration max_;
  std::mutex mutex_;  // guards random_
  std::mt19937_64 random_;
};

// Reads a Retry-After header, in seconds or as a date; nullopt if it is neither. A date in the past is zero.
// Source: RFC 9110 section 10.2.3.
std::optional<Duration> ParseRetryAfter(std::string_view value, std::time_t now);

// Keeps a node from hammering a host that is down: after some failures in a row nothing is sent there for a
// while, then a single request tries again. A host that answers others meanwhile, if only by a head, is not
// down: one that stalls for a single blob fails all its readers at once.
//
// Thread-safe.
class CircuitBreaker {
 public:
  static constexpr size_t kHostsMax = 1024;  // beyond it in trouble, new hosts are let through unwatched

  CircuitBreaker(uint32_t failures_max, Duration open_time, const Clock& clock)
      : failures_max_(failures_max), open_time_(open_time), clock_(clock) {}

  // Errors: Unavailable while the circuit to `host` is open.
  absl::Status Admit(const std::string& host);
  void Succeeded(const std::string& host);
  // `sent`: when the request that failed was sent.
  void Failed(const std::string& host, Instant sent);

 private:
  struct Host {
    uint32_t failures = 0;
    Instant closed_until = Instant::min();  // no request before this
    Instant answered = Instant::min();      // when it last did
  };

  // nullptr if there is no room for one more. REQUIRES: mutex_
  Host* Watch(const std::string& host);

  const uint32_t failures_max_;
  const Duration open_time_;
  const Clock& clock_;
  std::mutex mutex_;  // guards hosts_
  absl::flat_hash_map<std::string, Host> hosts_;
};

// Which registries have asked this node to come again later, and for how long.
//
// Thread-safe.
class Patience {
 public:
  static constexpr size_t kRegistriesMax = 1024;  // beyond, what is asked is not remembered

  explicit Patience(const Clock& clock) : clock_(clock) {}

  void Asked(const std::string& registry, Duration length);
  bool IsAskedBy(const std::string& registry) const;

 private:
  const Clock& clock_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, Instant> until_;  // guarded by mutex_
};

}  // namespace sluice::p2p
