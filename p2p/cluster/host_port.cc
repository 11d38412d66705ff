#include "p2p/cluster/host_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"

namespace sluice::p2p {

bool IsIpLiteral(const std::string& host) {
  in6_addr any;
  return inet_pton(AF_INET, host.c_str(), &any) == 1 || inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

bool IsWildcard(const std::string& host) {
  return host == "0.0.0.0" || host == "::" || host == "*";
}

std::string CanonicalHost(const std::string& host) {
  char text[INET6_ADDRSTRLEN] = "";
  in6_addr address;
  if (inet_pton(AF_INET, host.c_str(), &address) == 1) return inet_ntop(AF_INET, &address, text, sizeof text);
  if (inet_pton(AF_INET6, host.c_str(), &address) != 1) return host;
  // It is reached over IPv4, by whatever name.
  if (IN6_IS_ADDR_V4MAPPED(&address)) return inet_ntop(AF_INET, &address.s6_addr[12], text, sizeof text);
  return inet_ntop(AF_INET6, &address, text, sizeof text);
}

absl::StatusOr<HostPort> HostPort::Parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  HostPort address;
  if (colon != std::string_view::npos) address.host = text.substr(0, colon);
  const bool brackets = address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']';
  if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
  const bool host_ok = !address.host.empty() && address.host.size() <= 253 &&
                       (brackets ? IsIpLiteral(address.host) && address.host.find(':') != std::string::npos
                                 : address.host.find_first_of(":/ []@?#") == std::string::npos);
  const std::optional<uint64_t> port = ParseNumber(text.substr(colon + 1));
  if (!host_ok || !port || *port == 0 || *port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is no address: write host:port, an IPv6 address in brackets"));
  }
  address.port = static_cast<uint16_t>(*port);
  return address;
}

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrCat(v6 ? "[" : "", host, v6 ? "]:" : ":", port);
}

}  // namespace sluice::p2p
