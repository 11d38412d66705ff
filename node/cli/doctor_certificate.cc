#include "node/cli/doctor_certificate.h"

#include <ctime>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/daemon/asio_executor.h"
#include "node/telemetry.h"
#include "node/tls/identity_files.h"

namespace sluice::cli {

std::vector<Check> CheckCertificate(const Config& config) {
  if (!config.PeersAreProven()) return {};
  Check check{"certificate for other nodes", Check::Result::kFails, {}, {}};
  check.remedy = "see the tls keys of the configuration; sluiced takes new files by itself within seconds";
  const SteadyClock clock;
  Telemetry telemetry;
  std::vector<std::string> troubles;
  const auto note = [&troubles](const std::string& text) { troubles.push_back(text); };
  const auto files = tls::IdentityFiles::Open(
      {clock, telemetry, [] { return static_cast<int64_t>(std::time(nullptr)); }, note, note},
      {config.tls_ca, config.tls_certificate, config.tls_key, config.tls_crl_file, config.tls_peer_name});
  if (!files.ok()) {
    check.detail = std::string(files.status().message());
    return {check};
  }
  const std::shared_ptr<const tls::Identity> identity = (*files)->current()->Get();
  const std::vector<std::string>& names = identity->own_names().names();
  troubles.insert(troubles.begin(),
                  absl::StrCat("of ", names.empty() ? std::string("all nodes") : absl::StrJoin(names, ", "),
                               ", until ", tls::FormatTime(identity->not_after())));
  check.detail = absl::StrJoin(troubles, "; ");
  if (troubles.size() == 1) check.result = Check::Result::kHolds;
  return {check};
}

}  // namespace sluice::cli
