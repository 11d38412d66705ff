#include "node/daemon/service_manager.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace sluice {
namespace {

using keeper::Descriptor;

constexpr auto kBarrierTime = std::chrono::seconds(5);

}  // namespace

ServiceManager::ServiceManager() {
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(/*unset_environment=*/1, &names);
  for (int i = 0; i < count; ++i) {
    // Of one name the newest comes first; what is older is closed.
    kept_.emplace(names[i], Descriptor(SD_LISTEN_FDS_START + i));
    names_.insert(names[i]);
    std::free(names[i]);
  }
  std::free(names);
}

void ServiceManager::SayReady() {
  sd_notify(0, "READY=1");
}

void ServiceManager::SayStopping() {
  sd_notify(0, "STOPPING=1");
}

Descriptor ServiceManager::Take(std::string_view name) {
  const auto found = kept_.find(name);
  if (found == kept_.end()) return {};
  Descriptor descriptor = std::move(found->second);
  kept_.erase(found);
  return descriptor;
}

int ServiceManager::Peek(std::string_view name) const {
  const auto found = kept_.find(name);
  return found == kept_.end() ? -1 : found->second.get();
}

void ServiceManager::Keep(std::string_view name, int fd) {
  names_.emplace(name);
  // Unpolled: systemd could not poll all of them, and takes none that it can't.
  const std::string message = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + std::string(name);
  const int sent = sd_pid_notify_with_fds(0, /*unset_environment=*/0, message.c_str(), &fd, 1);
  if (sent < 0) spdlog::warn("the service manager does not keep {}: {}", name, std::strerror(-sent));
}

void ServiceManager::Clear() {
  kept_.clear();
  for (const std::string& name : names_) sd_notify(0, ("FDSTOREREMOVE=1\nFDNAME=" + name).c_str());
  if (!names_.empty())
    sd_notify_barrier(0, std::chrono::duration_cast<std::chrono::microseconds>(kBarrierTime).count());
  names_.clear();
}

}  // namespace sluice
