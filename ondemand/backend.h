#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "ondemand/keeper/journal.h"
#include "ondemand/probe.h"

namespace sluice::ondemand {

// Which of the kernel's interfaces brings reads to the node.
enum class Backend { kFanotify, kCachefiles, kFuse, kOff };

// Those that there are, the best first.
inline constexpr std::array kBackends = {Backend::kFanotify, Backend::kCachefiles, Backend::kFuse};

// As in ondemand.backend.
std::string_view BackendName(Backend backend);
// REQUIRES: backend is not kOff
keeper::DoorKind DoorKindOf(Backend backend);

// Really tries what the backend needs of the machine: see probe.h. Empty for kOff.
std::vector<Requirement> ProbeBackend(Backend backend, const std::string& data_dir);

struct BackendChoice {
  Backend backend = Backend::kOff;
  std::string reason;  // for the log and for `sluice doctor`
};

// `configured` is ondemand.backend: auto, off, or the name of a backend. `auto` takes the first of kBackends
// that works, and off where none does; but where readers wait at a door already, that one. Errors:
// FailedPrecondition if a backend was named and what it needs does not hold: the message lists it with its
// remedies; or if `off` would leave readers waiting; InvalidArgument for another name.
absl::StatusOr<BackendChoice> ChooseBackend(std::string_view configured, const std::string& data_dir,
                                            std::optional<keeper::DoorKind> waiting = std::nullopt);

}  // namespace sluice::ondemand
