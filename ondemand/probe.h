#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::ondemand {

// Something a door needs of the machine.
struct Requirement {
  std::string name;
  bool holds = false;
  std::string detail;  // what was found
  std::string remedy;  // what to do; empty if it holds
};

// Really tries what the fanotify door needs, in a directory of its own within `data_dir`, which is removed
// again. Blocks for at most a few seconds. A requirement that can't be tried because an earlier one does not
// hold is left out.
std::vector<Requirement> ProbeFanotify(const std::string& data_dir);

enum class Backend { kFanotify, kOff };
std::string_view BackendName(Backend backend);

struct BackendChoice {
  Backend backend = Backend::kOff;
  std::string reason;  // for the log and for `sluice doctor`
};

// `configured` is ondemand.backend: auto, fanotify or off. `auto` falls back to off where nothing works.
// Errors: FailedPrecondition if a backend was named and what it needs does not hold: the message lists it
// with its remedies; InvalidArgument for another name.
absl::StatusOr<BackendChoice> ChooseBackend(std::string_view configured, const std::string& data_dir);

}  // namespace sluice::ondemand
