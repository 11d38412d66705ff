#pragma once

#include <cstdint>
#include <libtorrent/settings_pack.hpp>
#include <string>

// Private to this folder: names libtorrent's types.
namespace sluice::p2p {

inline constexpr int kConnectionsMax = 512;           // of the session
inline constexpr int kConnectionsPerTorrentMax = 64;  // half open ones too
inline constexpr int kRequestsPerPeerMax = 250;  // blocks of 16 KiB that a peer may have asked us for at once
inline constexpr int kSendBufferBytesMax = 1 << 20;  // read ahead for one peer

// What the session is opened with: TCP between members on one port, and nothing that looks for other peers.
// `address` is an IP literal, and outgoing connections are made from it unless it is a wildcard. Source:
// libtorrent docs, "settings_pack".
lt::settings_pack SessionSettings(const std::string& address, uint16_t port);

}  // namespace sluice::p2p
