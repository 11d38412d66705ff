#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sluice::p2p {

// Whether a host, as written in a URL or an image reference without its port, names this machine:
// "localhost", a name under ".localhost", 127.0.0.0/8, or ::1 (with or without brackets). Names are not
// resolved. Source: RFC 6761 section 6.3.
bool NamesLoopback(std::string_view host);

// Whether a host, written so, is a link-local address (169.254.0.0/16, fe80::/10): where clouds keep secrets.
// Source: RFC 3927, RFC 4291 section 2.5.6.
bool NamesLinkLocal(std::string_view host);

// An absolute http or https URL without user information; what RFC 3986 allows beyond that is refused.
//
// A value; thread-compatible.
class Url {
 public:
  static constexpr size_t kLengthMax = 16 << 10;  // bytes; signed storage URLs reach 4 KiB

  // Errors: InvalidArgument; the message never holds the query.
  static absl::StatusOr<Url> Parse(std::string_view text);

  // The URL that `reference` (absolute or relative) means when it is read at this one: RFC 3986 section 5.2.
  // Errors: InvalidArgument.
  absl::StatusOr<Url> Resolve(std::string_view reference) const;

  // This URL with `name=value` added to its query, percent-encoded.
  Url WithQuery(std::string_view name, std::string_view value) const;

  bool secure() const { return scheme_ == "https"; }
  // Lower case; IPv6 literals stand in brackets.
  const std::string& host() const { return host_; }
  uint16_t port() const { return port_; }
  // Without the "?"; percent-encoded.
  const std::string& query() const { return query_; }
  // "host:port"; the port is always there.
  std::string Authority() const;
  // "scheme://host:port": what RFC 6454 calls an origin.
  std::string SchemeAndAuthority() const;

  std::string ToString() const;
  // For people: the query, which may carry signatures and tokens, is left out.
  std::string Redacted() const;

 private:
  Url() = default;
  static absl::StatusOr<Url> FromHandle(void* handle);

  std::string scheme_;
  std::string host_;
  uint16_t port_ = 0;
  std::string path_;
  std::string query_;
};

}  // namespace sluice::p2p
