#include "p2p/registry/docker_credentials.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

using nlohmann::json;

constexpr std::string_view kDockerHub = "index.docker.io";

// docker login writes keys as host[:port] or as a URL with a path, and several names for Docker Hub.
std::string Normalized(std::string_view key) {
  if (const size_t scheme = key.find("://"); scheme != std::string_view::npos) key.remove_prefix(scheme + 3);
  const std::string host = absl::AsciiStrToLower(Abs(key.substr(0, key.find('/'))));
  if (host == "docker.io" || host == "registry-1.docker.io") return std::string(kDockerHub);
  return host;
}

std::string Text(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

absl::StatusOr<Credential> ParseEntry(const std::string& registry, const json& entry) {
  if (!entry.is_object())
    return absl::InvalidArgumentError(absl::StrCat("auths.", registry, " is no object"));
  Credential credential{Text(entry, "username"), Text(entry, "password"), Text(entry, "identitytoken")};
  const std::string auth = Text(entry, "auth");
  if (auth.empty()) return credential;
  std::string decoded;
  const bool valid = absl::Base64Unescape(auth, &decoded);
  const size_t colon = decoded.find(':');
  if (!valid || colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("auths.", registry, ".auth is not base64 of name:password"));
  }
  credential.username = decoded.substr(0, colon);
  credential.password = decoded.substr(colon + 1);
  // docker pads the decoded text with zero bytes at times.
  credential.password.resize(std::strlen(credential.password.c_str()));
  return credential;
}

struct CloseFile {
  int fd;
  ~CloseFile() { ::close(fd); }
};

absl::StatusOr<std::string> ReadAll(int fd, size_t bytes_max) {
  std::string bytes(bytes_max + 1, '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t n = ::read(fd, bytes.data() + filled, bytes.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, "read");
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  if (filled > bytes_max) return absl::OutOfRangeError(absl::StrCat("larger than ", bytes_max, " bytes"));
  bytes.resize(filled);
  return bytes;
}

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
         a.st_ctim.tv_sec == b.st_ctim.tv_sec && a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

}  // namespace

std::string Credential::BasicAuthorization() const {
  return absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat(username, ":", password)));
}

absl::StatusOr<std::optional<Credential>> DockerCredentials::Find(std::string_view registry) {
  if (path_.empty()) return std::nullopt;
  const std::string key = Normalized(registry);
  const std::lock_guard lock(mutex_);
  if (absl::Status status = Refresh(); !status.ok()) return status;
  const auto helper = contents_.helpers.find(key);
  if (helper != contents_.helpers.end() || (!contents_.store.empty() && contents_.stored.contains(key))) {
    const std::string& name = helper != contents_.helpers.end() ? helper->second : contents_.store;
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " leaves ", Abs(registry), " to the credential helper \"", name,
                     "\", which is not supported: put the credential itself into auths"));
  }
  const auto it = contents_.credentials.find(key);
  if (it == contents_.credentials.end()) return std::nullopt;
  return it->second;
}

absl::Status DockerCredentials::Malformed(const absl::Status& why) const {
  return absl::FailedPreconditionError(absl::StrCat("docker config ", path_, ": ", why.message()));
}

absl::Status DockerCredentials::Refresh() {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    seen_ = {};
    contents_ = {};
    if (error == ENOENT) return absl::OkStatus();
    return Malformed(absl::ErrnoToStatus(error, "open"));
  }
  const CloseFile file{fd};
  struct stat now {};
  if (::fstat(file.fd, &now) != 0) return Malformed(absl::ErrnoToStatus(errno, "stat"));
  if (SameFile(now, seen_)) return state_;
  seen_ = now;
  contents_ = {};
  state_ = absl::OkStatus();
  absl::StatusOr<std::string> bytes = ReadAll(file.fd, kFileBytesMax);
  absl::StatusOr<Contents> contents = bytes.ok() ? Parse(*bytes) : bytes.status();
  if (contents.ok()) {
    contents_ = *std::move(contents);
  } else {
    state_ = Malformed(contents.status());
  }
  return state_;
}

absl::StatusOr<DockerCredentials::Contents> DockerCredentials::Parse(std::string_view text) {
  const json config = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("not a JSON object");
  Contents contents;
  contents.store = Text(config, "credsStore");
  const json helpers = config.value("credHelpers", json::object());
  const json auths = config.value("auths", json::object());
  if (!helpers.is_object()) return absl::InvalidArgumentError("credHelpers is no object");
  if (!auths.is_object()) return absl::InvalidArgumentError("auths is no object");
  for (const auto& [registry, name] : helpers.items()) {
    if (!name.is_string())
      return absl::InvalidArgumentError(absl::StrCat("credHelpers.", registry, " is no string"));
    contents.helpers.emplace(Normalized(registry), name.get<std::string>());
  }
  for (const auto& [registry, entry] : auths.items()) {
    absl::StatusOr<Credential> credential = ParseEntry(registry, entry);
    if (!credential.ok()) return credential.status();
    if (credential->username.empty() && credential->identity_token.empty()) {
      contents.stored.insert(Normalized(registry));
    } else {
      contents.credentials.emplace(Normalized(registry), *std::move(credential));
    }
  }
  return contents;
}

}  // namespace sluice::p2p
