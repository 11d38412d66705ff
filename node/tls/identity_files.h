#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "node/tls/current_identity.h"
#include "node/tls/identity.h"

namespace sluice::tls {

struct IdentityPaths {
  std::string ca;
  std::string certificate;
  std::string key;
  std::string crl;  // "" is none
  std::string peer_name;
};

// The files of this node's identity, looked at again every so often: what is new and good is taken, also
// where a link was turned to other files, as Kubernetes does; what is bad leaves the last good one, and is
// told once. So is what time does to them: a certificate that does not count yet or no more, a revocation
// list that is too old. Each is told again later.
//
// Not thread-safe: Look is for one thread at a time.
class IdentityFiles {
 public:
  static constexpr size_t kFileBytesMax = 1 << 20;
  static constexpr Duration kTellAgain = std::chrono::minutes(10);

  struct Parts {
    const Clock& clock;
    Telemetry& telemetry;
    std::function<int64_t()> wall_seconds;  // since 1970
    std::function<void(const std::string&)> warn;
    std::function<void(const std::string&)> alarm;
  };

  // Reads them for the first time. Errors: InvalidArgument, NotFound, PermissionDenied; each names setting,
  // file and remedy. The parts outlive this.
  static absl::StatusOr<std::unique_ptr<IdentityFiles>> Open(Parts parts, IdentityPaths paths);

  // What was read last and is good.
  const std::shared_ptr<CurrentIdentity>& current() const { return current_; }

  enum class Change { kNone, kNew };
  // Whether there is a new identity now.
  Change Look();

 private:
  // What tells two states of a file apart without reading it.
  using Signature = std::array<int64_t, 6>;
  using Signatures = std::array<Signature, 4>;
  struct Texts {
    IdentityText text;
    absl::Status crl_read;
  };
  // A thing that is told when it begins, and again while it lasts.
  struct Trouble {
    std::string text;
    Instant told{};
  };

  IdentityFiles(Parts parts, IdentityPaths paths) : parts_(std::move(parts)), paths_(std::move(paths)) {}

  Signatures Sign() const;
  absl::StatusOr<Texts> Read() const;
  // Errors: what is wrong with the files.
  absl::StatusOr<Change> Take();
  // The list that counts: the file's, or, if that is bad, the last good one.
  std::string ChooseList(const Texts& texts);
  std::string InFile(const std::string& message) const;
  void TellOfKeyMode();
  void TellOfTimes();
  // An empty text ends it. Whether it is another trouble than before.
  bool Tell(Trouble& trouble, std::string text, const std::function<void(const std::string&)>& how);

  const Parts parts_;
  const IdentityPaths paths_;
  std::shared_ptr<CurrentIdentity> current_;
  uint64_t number_ = 0;
  Signatures seen_{};     // of the files that were taken
  std::string taken_;     // the SHA-256 of what they held
  std::string crl_;       // the last good list
  int64_t crl_next_ = 0;  // when the next one is due
  Trouble files_, list_, list_age_, own_time_, key_mode_;
};

}  // namespace sluice::tls
