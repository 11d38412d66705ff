#pragma once

#include <sys/stat.h>

#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::p2p {

// A user's secret for a registry: a name and password, or a token that stands for both.
struct Credential {
  std::string username;
  std::string password;
  std::string identity_token;  // an OAuth2 refresh token; if set, the other two are not used

  // The value of an Authorization header by the Basic scheme (RFC 7617).
  std::string BasicAuthorization() const;
};

// Port: what may be shown to registries and their token servers.
//
// Thread-safe.
class Credentials {
 public:
  virtual ~Credentials() = default;

  // What there is for `registry` (host[:port]); nullopt: go there without. Errors: FailedPrecondition. No
  // secret is in them.
  virtual absl::StatusOr<std::optional<Credential>> Find(std::string_view registry) = 0;
};

// The credentials in a docker config.json, which is read again whenever the file changes.
//
// Thread-safe.
class DockerCredentials final : public Credentials {
 public:
  static constexpr size_t kFileBytesMax = 1 << 20;

  // An empty path, or one where no file is, means no credentials.
  explicit DockerCredentials(std::string path) : path_(std::move(path)) {}

  // What the file holds for `registry` (host[:port]); nullopt: go there without.
  // Errors: FailedPrecondition if the file can't be read or is malformed, or leaves this registry to a
  // credential helper (we run none). Messages name the file, never its contents.
  absl::StatusOr<std::optional<Credential>> Find(std::string_view registry) override;

 private:
  struct Contents {
    absl::flat_hash_map<std::string, Credential> credentials;
    absl::flat_hash_map<std::string, std::string> helpers;  // registry -> helper's name
    std::string store;                                      // the helper for all others
    absl::flat_hash_set<std::string> stored;                // registries whose secret the store keeps
  };

  absl::Status Refresh();
  static absl::StatusOr<Contents> Parse(std::string_view json);
  absl::Status Malformed(const absl::Status& why) const;

  const std::string path_;
  std::mutex mutex_;  // guards the rest
  struct stat seen_ {};
  absl::Status state_;  // of the last reading
  Contents contents_;
};

}  // namespace sluice::p2p
