#pragma once

#include <string>
#include <vector>

#include "node/cli/doctor_peers.h"
#include "node/daemon/config.h"

namespace sluice::cli {

// Whether this node can take what containerd has pulled by itself (store.importContainerd), and whether
// containerd keeps it. Nothing where that is off. `containerd_config` need not be there. Blocks on disk.
std::vector<Check> CheckContainerd(const Config& config, const std::string& containerd_config);

}  // namespace sluice::cli
