#pragma once

#include <optional>
#include <string>

#include "node/telemetry.h"
#include "node/tls/identity.h"

namespace sluice::p2p {

// Another node, which is reached by TLS at an address that has nothing to do with the URL's host: that is the
// name which all nodes' certificates have.
struct HttpPeer {
  std::shared_ptr<const tls::Identity> identity;  // what is shown, and demanded; never null
  std::string address;                            // "host:port", an IPv6 address in brackets
  std::string name;                               // which its certificate must allow; empty: any

  // Connections of one are not used for what has another.
  std::string ConnectionKey() const;
};

// A request's libcurl handle, which is `void*` where its header does not come: it goes to that node, and to
// nobody else. `peer` outlives the handle. Returns what must be freed after the handle with
// FreeConnectTo.
void* SetUpPeerTls(void* easy, const HttpPeer& peer);
void FreeConnectTo(void* list);

// Who is at the other end of the connection that the handle uses now; nullopt if it has none.
std::optional<tls::Peer> PeerOfTransfer(void* easy, const HttpPeer& peer);

// How the handshake of a transfer that has ended went, by libcurl's code and text; nullopt if its connection
// never stood. REQUIRES: it was a new one
std::optional<TlsResult> HandshakeOf(void* easy, int code, const std::string& text);

}  // namespace sluice::p2p
