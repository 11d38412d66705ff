#include "node/daemon/tls.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sluice {

absl::StatusOr<std::unique_ptr<tls::IdentityFiles>> OpenIdentityFiles(const Config& config,
                                                                      tls::IdentityFiles::Parts parts) {
  return tls::IdentityFiles::Open(std::move(parts), {config.tls_ca, config.tls_certificate, config.tls_key,
                                                     config.tls_crl_file, config.tls_peer_name});
}

absl::Status CheckOwnName(const tls::Identity& identity, const std::string& name) {
  if (identity.own_names().Allow(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tls.certificate: it is of ", absl::StrJoin(identity.own_names().names(), ", "),
                   " (its DNS names under ", identity.peer_name(), "), and this node is ", name,
                   ": the others would refuse it; set cluster.name, or give the certificate of this node"));
}

std::string DescribeIdentity(const tls::Identity& identity) {
  const std::vector<std::string>& names = identity.own_names().names();
  return absl::StrCat("TLS between nodes: the certificate of ",
                      names.empty() ? std::string("all nodes") : absl::StrJoin(names, ", "), " counts until ",
                      tls::FormatTime(identity.not_after()));
}

int64_t SecondsSince1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace sluice
