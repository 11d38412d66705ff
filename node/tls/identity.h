#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/proven_names.h"

// OpenSSL's, whose headers stop at the .cc files.
struct ssl_ctx_st;
struct ssl_st;

namespace sluice::tls {

// PEM, as it lies in files.
struct IdentityText {
  std::string ca;           // whom other nodes' certificates must come from
  std::string certificate;  // this node's, then what is between it and one of `ca`
  std::string key;          // its own
  std::string crl;          // revocation lists; empty: none
};

// Which side of a connection the other node is on.
enum class PeerSide { kServer, kClient };

// What this node shows other nodes, and what it demands of them: a certificate that comes from one of the
// authorities, is neither expired nor revoked, and has the DNS name that all nodes have. A revocation list
// that is missing or too old refuses nobody; what an old one names stays refused. Sessions are not resumed,
// so that each connection's certificate has been looked at.
//
// Immutable, thread-safe.
class Identity {
 public:
  // `number` tells one identity of this process from those before. Errors: InvalidArgument, which names the
  // setting; the message never has any of the key. The list of revocations must be one that
  // CheckRevocations takes.
  static absl::StatusOr<std::shared_ptr<const Identity>> Create(const IdentityText& text,
                                                                std::string peer_name, uint64_t number);
  ~Identity();
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;

  uint64_t number() const { return number_; }
  const std::string& peer_name() const { return peer_name_; }
  // The names of nodes in its certificate; none: it is every node's.
  const ProvenNames& own_names() const { return own_names_; }
  // Within which the certificate counts; seconds since 1970.
  int64_t not_before() const { return not_before_; }
  int64_t not_after() const { return not_after_; }

  // Of a server, which demands a certificate of every client. The identity keeps it.
  ssl_ctx_st* server_context() const { return server_context_; }
  // Makes a client's context show and demand the same, and nothing else. Errors: Internal.
  absl::Status SetUpClient(ssl_ctx_st* context) const;
  // For clients that want a CA in PEM of their own: that of `text`, in which nobody else is named.
  const std::string& ca_text() const { return ca_text_; }

  // Whether the peer of a connection that stands would be let in now. REQUIRES: its handshake has ended well
  bool Accepts(ssl_st* connection, PeerSide side) const;

  // Why a client is not let in that is no node: its certificate must be as a node's, but with the DNS name
  // `name`. As a person would say it; empty if it is let in. `chain` is PEM, the client's own first, and the
  // client has shown that it has the key.
  std::string RefusalOfClient(const std::string& chain, const std::string& name) const;

 private:
  struct Parts;
  Identity(std::unique_ptr<Parts> parts, std::string peer_name, uint64_t number, std::string ca_text);

  const std::unique_ptr<Parts> parts_;
  const uint64_t number_;
  const std::string peer_name_;
  const std::string ca_text_;
  ssl_ctx_st* server_context_ = nullptr;
  ProvenNames own_names_;
  int64_t not_before_ = 0;
  int64_t not_after_ = 0;
};

// Who the other side of a connection is, by its certificate.
struct Peer {
  ProvenNames names;
  int64_t not_after = 0;  // of its certificate; seconds since 1970
};
// REQUIRES: its handshake has ended well
Peer PeerOf(ssl_st* connection, const std::string& peer_name);

// What is wrong with a certificate that the other side showed, as a person would say it; empty if it was not
// the certificate.
std::string RefusalOf(ssl_st* connection);

// "2026-11-27T06:00:00Z".
std::string FormatTime(int64_t seconds_since_1970);

struct Revocations {
  int64_t next_update = 0;  // the earliest of its lists'; seconds since 1970; 0: none says
};
// Errors: InvalidArgument (not PEM, no list, or one that none of the authorities has signed).
absl::StatusOr<Revocations> CheckRevocations(const std::string& crl, const std::string& ca);

}  // namespace sluice::tls
