#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "ondemand/descriptor_store.h"

namespace sluice {

// systemd, or whoever started us and speaks as it does: with NOTIFY_SOCKET it is told how we are, and with
// LISTEN_FDS it hands back the descriptors that it kept. Without either nothing is told and nothing is kept.
// Sources: sd_notify(3), sd_listen_fds(3), FileDescriptorStoreMax= in systemd.service(5).
class ServiceManager final : public ondemand::DescriptorStore {
 public:
  // Takes what the environment names, and takes it out of the environment. REQUIRES: called once, before
  // there are other threads.
  ServiceManager();

  void SayReady();
  void SayStopping();

  keeper::Descriptor Take(std::string_view name) override;
  int Peek(std::string_view name) const override;
  void Keep(std::string_view name, int fd) override;
  void Clear() override;

 private:
  std::map<std::string, keeper::Descriptor, std::less<>> kept_;
  std::set<std::string, std::less<>> names_;  // of what it keeps now
};

}  // namespace sluice
