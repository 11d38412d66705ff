#include "ondemand/backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::ondemand {
namespace {

// What does not hold, with its remedies; empty if all does.
std::string Missing(Backend backend, const std::string& data_dir) {
  std::string missing;
  for (const Requirement& requirement : ProbeBackend(backend, data_dir)) {
    if (requirement.holds) continue;
    absl::StrAppend(&missing, missing.empty() ? "" : "; ", requirement.name, ": ", requirement.detail, " (",
                    requirement.remedy, ")");
  }
  if (missing.empty()) return missing;
  return absl::StrCat(std::string(BackendName(backend)), " can't be used: ", missing);
}

std::string NamesOfAll() {
  std::string names = "auto";
  for (const Backend backend : kBackends) absl::StrAppend(&names, ", ", std::string(BackendName(backend)));
  return names + ", off";
}

absl::StatusOr<BackendChoice> ChooseNamed(Backend backend, const std::string& data_dir) {
  const std::string missing = Missing(backend, data_dir);
  if (!missing.empty()) return absl::FailedPreconditionError(missing);
  return BackendChoice{backend, "ondemand.backend names it, and all that it needs holds"};
}

BackendChoice ChooseFirst(const std::string& data_dir) {
  std::string others;
  for (const Backend backend : kBackends) {
    const std::string missing = Missing(backend, data_dir);
    if (missing.empty()) {
      return {backend, absl::StrCat("all that it needs holds", others.empty() ? "" : "; ", others)};
    }
    absl::StrAppend(&others, others.empty() ? "" : "; ", missing);
  }
  return {Backend::kOff, others};
}

}  // namespace

std::string_view BackendName(Backend backend) {
  return backend == Backend::kOff ? "off" : keeper::DoorName(DoorKindOf(backend));
}

keeper::DoorKind DoorKindOf(Backend backend) {
  switch (backend) {
    case Backend::kCachefiles:
      return keeper::DoorKind::kCachefiles;
    case Backend::kFuse:
      return keeper::DoorKind::kFuse;
    case Backend::kFanotify:
    case Backend::kOff:
      break;
  }
  return keeper::DoorKind::kFanotify;
}

std::vector<Requirement> ProbeBackend(Backend backend, const std::string& data_dir) {
  switch (backend) {
    case Backend::kFanotify:
      return ProbeFanotify(data_dir);
    case Backend::kCachefiles:
      return ProbeCachefiles(data_dir);
    case Backend::kFuse:
      return ProbeFuse(data_dir);
    case Backend::kOff:
      return {};
  }
  return {};
}

absl::StatusOr<BackendChoice> ChooseBackend(std::string_view configured, const std::string& data_dir,
                                            std::optional<keeper::DoorKind> waiting) {
  if (waiting && configured == "off") {
    return absl::FailedPreconditionError(
        absl::StrCat("ondemand.backend is off, but readers wait at mounts of the backend ",
                     keeper::DoorName(*waiting), "; name that one until they are unmounted"));
  }
  if (waiting && configured == "auto") {
    for (const Backend backend : kBackends) {
      if (DoorKindOf(backend) == *waiting) return BackendChoice{backend, "readers wait at its mounts"};
    }
  }
  if (configured == "off") return BackendChoice{Backend::kOff, "ondemand.backend is off"};
  if (configured == "auto") return ChooseFirst(data_dir);
  for (const Backend backend : kBackends) {
    if (configured == BackendName(backend)) return ChooseNamed(backend, data_dir);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("ondemand.backend \"", std::string(configured), "\" is none of ", NamesOfAll()));
}

}  // namespace sluice::ondemand
