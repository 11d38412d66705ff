#pragma once

#include <vector>

#include "node/cli/doctor_peers.h"
#include "node/daemon/config.h"

namespace sluice::cli {

// Reads the files of this node's identity as sluiced would. Nothing if there is no TLS between nodes.
std::vector<Check> CheckCertificate(const Config& config);

}  // namespace sluice::cli
