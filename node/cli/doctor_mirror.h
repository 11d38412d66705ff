#pragma once

#include <vector>

#include "node/cli/doctor_peers.h"
#include "node/daemon/config.h"

namespace sluice::cli {

// What the running node's metrics tell of container runtimes that ask its mirror. Nothing if none has, or the
// mirror or the metrics are off. Blocks on operations.listen, for seconds.
std::vector<Check> CheckMirror(const Config& config);

}  // namespace sluice::cli
