#pragma once

#include <string>
#include <vector>

namespace sluice::ondemand {

// Something a door needs of the machine.
struct Requirement {
  std::string name;
  bool holds = false;
  std::string detail;  // what was found
  std::string remedy;  // what to do; empty if it holds
};

// Really try what a door needs, in a directory of its own within `data_dir`, which is removed again. Block
// for at most a few seconds. A requirement that can't be tried because an earlier one does not hold is left
// out.
std::vector<Requirement> ProbeFanotify(const std::string& data_dir);
std::vector<Requirement> ProbeCachefiles(const std::string& data_dir);
std::vector<Requirement> ProbeFuse(const std::string& data_dir);

}  // namespace sluice::ondemand
