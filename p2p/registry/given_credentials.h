#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "node/secret.h"
#include "p2p/registry/docker_credentials.h"

namespace sluice::p2p {

// A name and password for one registry that somebody has handed over; no other is told of them.
//
// Constant.
class GivenCredentials final : public Credentials {
 public:
  GivenCredentials(std::string registry, std::string username, Secret password)
      : registry_(std::move(registry)), username_(std::move(username)), password_(std::move(password)) {}

  absl::StatusOr<std::optional<Credential>> Find(std::string_view registry) override {
    if (registry != registry_) return std::nullopt;
    return Credential{username_, password_.text(), {}};
  }

 private:
  const std::string registry_;  // as references name it
  const std::string username_;
  const Secret password_;
};

}  // namespace sluice::p2p
