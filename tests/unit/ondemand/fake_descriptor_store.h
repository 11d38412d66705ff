#pragma once

#include <fcntl.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "ondemand/descriptor_store.h"

namespace sluice::ondemand {

// What a service manager would keep, in memory.
class FakeDescriptorStore final : public DescriptorStore {
 public:
  keeper::Descriptor Take(std::string_view name) override {
    const auto found = given_.find(name);
    if (found == given_.end()) return {};
    keeper::Descriptor descriptor = std::move(found->second);
    given_.erase(found);
    return descriptor;
  }
  int Peek(std::string_view name) const override {
    const auto found = given_.find(name);
    return found == given_.end() ? -1 : found->second.get();
  }
  void Keep(std::string_view name, int fd) override { kept_[std::string(name)].reset(Duplicate(fd)); }
  void Clear() override {
    ++cleared_;
    given_.clear();
    kept_.clear();
  }

  // As if it had been kept when this process started.
  void Give(const std::string& name, int fd) { given_[name].reset(Duplicate(fd)); }
  int cleared() const { return cleared_; }
  size_t kept() const { return kept_.size(); }

 private:
  static int Duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

  std::map<std::string, keeper::Descriptor, std::less<>> given_;
  std::map<std::string, keeper::Descriptor, std::less<>> kept_;
  int cleared_ = 0;
};

}  // namespace sluice::ondemand
