#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/daemon/config.h"
#include "node/tls/identity.h"
#include "node/tls/identity_files.h"

// This node's identity among the others, as its configuration has it.
namespace sluice {

// REQUIRES: config.PeersAreProven(). Errors: as IdentityFiles::Open.
absl::StatusOr<std::unique_ptr<tls::IdentityFiles>> OpenIdentityFiles(const Config& config,
                                                                      tls::IdentityFiles::Parts parts);

// That a certificate which is one node's is this node's. Errors: InvalidArgument.
absl::Status CheckOwnName(const tls::Identity& identity, const std::string& name);

// One line for the log.
std::string DescribeIdentity(const tls::Identity& identity);

int64_t SecondsSince1970();

}  // namespace sluice
