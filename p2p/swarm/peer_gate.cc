#include "p2p/swarm/peer_gate.h"

#include <algorithm>
#include <libtorrent/aux_/socket_type.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/socket.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <libtorrent/version.hpp>
#include <utility>

namespace sluice::p2p {

// ForbidHashes leans on internals of this very version, whose headers say so, and the whole design on what
// was measured of it. Another one needs the tests of this folder, and a look at whether it still needs the
// remedy.
static_assert(LIBTORRENT_VERSION_NUM == 20008);

class PeerGate::PeerPlugin final : public lt::peer_plugin {
 public:
  PeerPlugin(PeerGate& gate, const lt::peer_connection_handle& peer)
      : gate_(gate), peer_(peer), address_(peer.remote().address()) {
    const auto connection = peer_.native_handle();
    observer_ = static_cast<const lt::disk_observer*>(connection.get());
    gate_.connections_[observer_] = this;
  }
  ~PeerPlugin() override {
    CountOut();
    gate_.connections_.erase(observer_);
  }

  bool on_handshake(lt::span<const char>) override {
    if (!gate_.Admits(address_)) {
      Cut();
      return true;
    }
    if (const auto connection = peer_.native_handle()) {
      lt::error_code ignored;
      connection->get_socket().set_option(lt::tcp::no_delay(true), ignored);
    }
    shaken_ = true;
    if (++gate_.shaken_[address_] == 1) ShowPeers();
    ForbidHashes();
    return true;
  }

  void on_disconnect(const lt::error_code&) override {
    CountOut();
    SetHashMessages(true);  // or the next handshake with this peer would carry no v2 info-hash
  }

  // A peer that refuses whatever it is asked for, and is asked again, would go on so for ever.
  bool on_reject(const lt::peer_request&) override {
    if (++rejects_ < kRejectsInRowMax) return false;
    gate_.Ban(address_.to_string());
    return true;
  }
  bool on_piece(const lt::peer_request&, lt::span<const char>) override {
    rejects_ = 0;
    return false;
  }

  // Two of the messages about hashes (BEP 52: 21 to 23) can end the process in this version: `hashes` that
  // names an all-zero root meets the pad file behind the blob, which has no tree; and the refusal of a
  // request that libtorrent itself made writes outside its heap block. For a peer that counts as one of
  // protocol version 1 all three end the connection before anything is looked at, and none is sent.
  void ForbidHashes() {
    if (shaken_) SetHashMessages(false);
  }

  void Cut() { peer_.disconnect(lt::errors::peer_banned, lt::operation_t::bittorrent); }
  const lt::peer_connection_handle& handle() const { return peer_; }
  const lt::address& address() const { return address_; }

 private:
  void SetHashMessages(bool allowed) {
    const auto connection = peer_.native_handle();
    if (connection && connection->peer_info_struct()) connection->peer_info_struct()->protocol_v2 = allowed;
  }
  void CountOut() {
    if (!std::exchange(shaken_, false)) return;
    if (--gate_.shaken_[address_] == 0) gate_.shaken_.erase(address_);
    ShowPeers();
  }
  void ShowPeers() { gate_.telemetry_.swarm_peers.Set(static_cast<int64_t>(gate_.shaken_.size())); }

  PeerGate& gate_;
  lt::peer_connection_handle peer_;
  const lt::address address_;
  const lt::disk_observer* observer_;
  bool shaken_ = false;
  int rejects_ = 0;
};

class PeerGate::TorrentPlugin final : public lt::torrent_plugin {
 public:
  explicit TorrentPlugin(PeerGate& gate) : gate_(gate) {}

  std::shared_ptr<lt::peer_plugin> new_connection(const lt::peer_connection_handle& peer) override {
    auto plugin = std::make_shared<PeerPlugin>(gate_, peer);
    std::erase_if(peers_, [](const auto& known) { return known.expired(); });
    peers_.push_back(plugin);
    return plugin;
  }

  // To add an endpoint, also of a peer that is connected, makes it one of version 2 again.
  void on_add_peer(const lt::tcp::endpoint&, lt::peer_source_flags_t, lt::add_peer_flags_t) override {
    for (const auto& known : peers_) {
      if (const auto peer = known.lock()) peer->ForbidHashes();
    }
  }

 private:
  PeerGate& gate_;
  std::vector<std::weak_ptr<PeerPlugin>> peers_;
};

PeerGate::PeerGate(const Clock& clock, Telemetry& telemetry, std::function<void()> on_change)
    : clock_(clock), telemetry_(telemetry), on_change_(std::move(on_change)) {}

void PeerGate::SetMembers(std::vector<lt::address> members) {
  {
    std::lock_guard lock(mutex_);
    admissible_ = std::set<lt::address>(members.begin(), members.end());
    members_ = std::move(members);
    changed_ = true;
  }
  on_change_();
}

size_t PeerGate::member_count() const {
  std::lock_guard lock(mutex_);
  return members_.size();
}

std::vector<lt::address> PeerGate::Admitted() const {
  const Instant now = clock_.Now();
  std::lock_guard lock(mutex_);
  std::vector<lt::address> admitted;
  for (const lt::address& member : members_) {
    if (!bans_.IsBanned(member.to_string(), now)) admitted.push_back(member);
  }
  return admitted;
}

lt::ip_filter PeerGate::FilterFor(const std::vector<lt::address>& admitted) {
  lt::ip_filter filter;
  filter.add_rule(lt::address_v4::any(), lt::address_v4::broadcast(), lt::ip_filter::blocked);
  lt::address_v6::bytes_type last;
  last.fill(0xff);
  filter.add_rule(lt::address_v6::any(), lt::address_v6(last), lt::ip_filter::blocked);
  for (const lt::address& member : admitted) filter.add_rule(member, member, 0);
  return filter;
}

bool PeerGate::TakeChange() {
  const Instant now = clock_.Now();
  std::lock_guard lock(mutex_);
  const bool expired = bans_.Expire(now);
  return std::exchange(changed_, false) || expired;
}

bool PeerGate::Admits(const lt::address& address) const {
  const Instant now = clock_.Now();
  std::lock_guard lock(mutex_);
  return admissible_.contains(address) && !bans_.IsBanned(address.to_string(), now);
}

std::shared_ptr<lt::torrent_plugin> PeerGate::NewPlugin() {
  return std::make_shared<TorrentPlugin>(*this);
}

void PeerGate::Ban(const std::string& address) {
  {
    const Instant now = clock_.Now();
    std::lock_guard lock(mutex_);
    const bool anew = !bans_.IsBanned(address, now);
    if (!bans_.Ban(address, now, members_.size())) return;
    if (anew) telemetry_.swarm_banned_peers.Add();
    changed_ = true;
  }
  // To cut a connection may end it at once, and with it its entry.
  std::vector<lt::peer_connection_handle> handles;
  for (const auto& [observer, peer] : connections_) {
    if (peer->address().to_string() == address) handles.push_back(peer->handle());
  }
  for (lt::peer_connection_handle& handle : handles) {
    handle.disconnect(lt::errors::peer_banned, lt::operation_t::bittorrent);
  }
  on_change_();
}

std::string PeerGate::AddressOf(const lt::disk_observer* observer) const {
  const auto found = connections_.find(observer);
  return found == connections_.end() ? std::string() : found->second->address().to_string();
}

}  // namespace sluice::p2p
