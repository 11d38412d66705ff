#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sluice::p2p {

// "host:port", where the host is a name, an IPv4 address, or an IPv6 address in brackets.
struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;

  // Errors: InvalidArgument, which quotes the text and says how it is written.
  static absl::StatusOr<HostPort> Parse(std::string_view text);
  std::string ToString() const;

  friend auto operator<=>(const HostPort&, const HostPort&) = default;
};

bool IsIpLiteral(const std::string& host);
// 0.0.0.0, :: and *: all addresses of the machine.
bool IsWildcard(const std::string& host);
// The form that inet_ntop(3) gives, so that one address has one text; what is no literal stays as it is.
std::string CanonicalHost(const std::string& host);

}  // namespace sluice::p2p
