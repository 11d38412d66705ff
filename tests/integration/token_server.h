#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "tests/fault/fault_origin.h"
#include "tests/integration/registry_fixture.h"

namespace sluice::p2p {

// A token server on loopback whose tokens a real registry believes: it signs them with a key of its own.
// Strangers may pull what begins with "public/"; who shows the password may do everything he asks for.
class TokenServer {
 public:
  explicit TokenServer(const RegistryFixture::Login& login);
  ~TokenServer();

  // How a registry is told of it.
  RegistryFixture::TokenAuth auth() const;
  std::vector<FaultRequest> requests() const { return origin_.requests("/token"); }

 private:
  class Signer;
  void Serve(const FaultRequest& request, FaultConnection& connection) const;

  const RegistryFixture::Login login_;
  const std::unique_ptr<Signer> signer_;
  FaultOrigin origin_;
};

}  // namespace sluice::p2p
