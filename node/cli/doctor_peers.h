#pragma once

#include <string>
#include <vector>

#include "node/cli/invocation.h"

namespace sluice::cli {

// One thing that was tried, as `doctor` prints it.
struct Check {
  enum class Result { kHolds, kFails, kUnknown };
  std::string name;
  Result result = Result::kUnknown;
  std::string detail;
  std::string remedy;  // of kFails
};

// Whether this node reaches the others and they reach it, as the running daemon finds out with their help.
// Blocks. Where there is no daemon, or it was told of no other nodes, one check says so as kUnknown.
std::vector<Check> CheckPeers(const GlobalFlags& flags);

}  // namespace sluice::cli
