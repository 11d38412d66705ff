#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace sluice::p2p {

// A real docker-registry (distribution 2.8) on a free loopback port, with its storage in a temporary
// directory. Up when constructed, gone with its data when destroyed; it also dies with this process. A
// failure to start it is an exception, so that the test fails and says why.
class RegistryFixture {
 public:
  struct Login {
    std::string username;
    std::string password;
  };

  // Who gives the tokens that it takes.
  struct TokenAuth {
    std::string realm;  // URL
    std::string service;
    std::string issuer;
    std::string certificate;  // file (PEM); what they are signed with
  };

  // Open to everyone.
  RegistryFixture() : RegistryFixture(Login{}) {}
  // With a user name, every request must carry it and the password (Basic).
  explicit RegistryFixture(const Login& login) : RegistryFixture(login, TokenAuth{}) {}
  // Every request must carry a token.
  explicit RegistryFixture(const TokenAuth& tokens) : RegistryFixture(Login{}, tokens) {}
  ~RegistryFixture();
  RegistryFixture(const RegistryFixture&) = delete;
  RegistryFixture& operator=(const RegistryFixture&) = delete;

  // "127.0.0.1:<port>".
  std::string registry() const { return "127.0.0.1:" + std::to_string(port_); }
  // A directory for the test's own files, removed at the end.
  const std::string& directory() const { return directory_; }
  // Writes a docker config.json with these credentials for this registry; returns its path.
  std::string WriteDockerConfig(const Login& login) const;

  // Ends the registry at once, as a crash would, and starts it again on the same port and storage.
  void Kill();
  void Restart();

 private:
  RegistryFixture(const Login& login, const TokenAuth& tokens);
  void WriteConfig(const Login& login, const TokenAuth& tokens) const;
  void Start();
  bool Answers() const;

  std::string directory_;
  uint16_t port_ = 0;
  pid_t pid_ = -1;
};

}  // namespace sluice::p2p
