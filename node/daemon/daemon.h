#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/daemon/config.h"
#include "node/daemon/log.h"
#include "ondemand/descriptor_store.h"

namespace sluice {

inline constexpr char kVersion[] = SLUICE_VERSION;

// The whole node, wired.
class Daemon {
 public:
  // Opens the store, takes up the mounts that it finds, and serves. When it returns OK the node is ready.
  // `descriptors` and `log` outlive the daemon. Errors say which part could not be had, and what to do; then
  // nothing is left running.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const Config& config,
                                                       ondemand::DescriptorStore& descriptors,
                                                       DaemonLog& log);

  // Stops in order: no new calls, the door (mounts and their keeper stay), what is under way, the last
  // claims.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Has the keeper open its log's file anew, if there is one.
  void ReopenKeeperLog();

 private:
  class Node;
  explicit Daemon(std::unique_ptr<Node> node);
  const std::unique_ptr<Node> node_;
};

}  // namespace sluice
