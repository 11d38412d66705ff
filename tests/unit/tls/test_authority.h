#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "node/tls/identity.h"

namespace sluice::tls {

// A certificate and its key, in PEM.
struct Issued {
  std::string certificate;
  std::string key;
};

struct Wish {
  std::vector<std::string> names = {"sluice"};
  int64_t begins_in = -3600;  // seconds from now
  int64_t ends_in = 3600;
  std::string uses = "serverAuth,clientAuth";  // none: for anything
};

// An authority that issues whatever a test wants.
class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name = "test authority");
  ~TestAuthority();

  const std::string& pem() const { return pem_; }
  Issued Issue(const Wish& wish = {}) const;
  // A list that revokes those certificates; the next one is due in so many seconds.
  std::string Revoke(const std::vector<std::string>& certificates, int64_t next_in = 3600) const;

  // An identity with a certificate of this authority, which trusts this authority, and those of `trusted`
  // too.
  std::shared_ptr<const Identity> MakeIdentity(const Wish& wish = {}, const std::string& crl = {},
                                               uint64_t number = 1, const std::string& trusted = {}) const;

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
  std::string pem_;
};

// A client that shows what it is told to, and believes any server. Each call blocks.
class TlsClient {
 public:
  TlsClient(uint16_t port, const Issued* shown);
  ~TlsClient();
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  TlsClient& Send(const std::string& bytes);
  // Up to and with `end`, or all that came before the connection ended.
  std::string ReadThrough(const std::string& end);
  std::string ReadAll() { return ReadThrough(""); }
  // Ends TLS, and leaves the connection for a moment as it is.
  void SayEnd();

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
  std::string ahead_;  // read and not taken
};

}  // namespace sluice::tls
