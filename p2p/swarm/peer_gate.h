#pragma once

#include <functional>
#include <libtorrent/address.hpp>
#include <libtorrent/disk_observer.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "node/ban_list.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/swarm/blame.h"

// Private to this folder: names libtorrent's types.
namespace sluice::p2p {

inline constexpr int kRejectsInRowMax = 300;  // of a peer that gives no block in between

// Who may connect, and what is done to each connection: hash messages are switched off (see ForbidHashes in
// peer_gate.cc), TCP_NODELAY is set, who is refused is cut.
//
// Must outlive the session whose torrents carry its plugins. What is said to run on the network thread runs
// on libtorrent's; all else on any thread.
class PeerGate {
 public:
  // `on_change` is called, on any thread, when Admitted() gives something else than before.
  PeerGate(const Clock& clock, Telemetry& telemetry, std::function<void()> on_change);

  void SetMembers(std::vector<lt::address> members);
  size_t member_count() const;

  // The members that are not banned.
  std::vector<lt::address> Admitted() const;
  // Whether Admitted() has changed since the last call; bans that are over count.
  bool TakeChange();
  bool Admits(const lt::address& address) const;
  // Blocks everybody but these. Source: libtorrent docs, "ip_filter".
  static lt::ip_filter FilterFor(const std::vector<lt::address>& admitted);

  // A plugin for one torrent: libtorrent docs, "libtorrent plugins".
  std::shared_ptr<lt::torrent_plugin> NewPlugin();

  // Network thread. Refuses the peer for kBanTime and cuts its connections.
  void Ban(const std::string& address);
  // Network thread. The address of the peer whose blocks come with this observer; empty if it is unknown.
  std::string AddressOf(const lt::disk_observer* observer) const;

 private:
  class TorrentPlugin;
  class PeerPlugin;

  const Clock& clock_;
  Telemetry& telemetry_;
  const std::function<void()> on_change_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<lt::address> members_;
  std::set<lt::address> admissible_;  // the members
  BanList bans_;
  bool changed_ = true;

  // Network thread only.
  absl::flat_hash_map<const lt::disk_observer*, PeerPlugin*> connections_;
  std::map<lt::address, int> shaken_;  // connections past their handshake
};

}  // namespace sluice::p2p
