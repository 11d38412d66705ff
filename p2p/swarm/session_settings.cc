#include "p2p/swarm/session_settings.h"

#include <libtorrent/address.hpp>
#include <libtorrent/alert.hpp>
#include <libtorrent/error_code.hpp>

#include "absl/strings/str_cat.h"

namespace sluice::p2p {

lt::settings_pack SessionSettings(const std::string& address, uint16_t port) {
  using pack = lt::settings_pack;
  lt::error_code error;
  const lt::address ip = lt::make_address(address, error);
  const bool bracketed = !error && ip.is_v6();

  pack s;
  s.set_str(pack::listen_interfaces,
            bracketed ? absl::StrCat("[", address, "]:", port) : absl::StrCat(address, ":", port));
  if (!ip.is_unspecified()) s.set_str(pack::outgoing_interfaces, address);
  s.set_int(pack::max_retry_port_bind, 0);
  s.set_bool(pack::listen_system_port_fallback, false);
  s.set_int(pack::listen_queue_size, 128);
  s.set_str(pack::user_agent, "");
  s.set_str(pack::peer_fingerprint, "-SL0100-");

  for (const int way : {pack::enable_dht, pack::enable_lsd, pack::enable_upnp, pack::enable_natpmp,
                        pack::enable_incoming_utp, pack::enable_outgoing_utp, pack::enable_ip_notifier}) {
    s.set_bool(way, false);
  }
  s.set_int(pack::out_enc_policy, pack::pe_disabled);
  s.set_int(pack::in_enc_policy, pack::pe_disabled);

  // A member is an address, and has one connection per torrent.
  s.set_bool(pack::allow_multiple_connections_per_ip, false);
  s.set_int(pack::connections_limit, kConnectionsMax);
  s.set_int(pack::connection_speed, 500);
  s.set_int(pack::torrent_connect_boost, 255);
  s.set_bool(pack::smooth_connects, false);
  // Who lacks something connects; a member that was away is tried again, after one second more each time, up
  // to half a minute, and never given up (this counter ends at 31).
  s.set_bool(pack::seeding_outgoing_connections, false);
  s.set_int(pack::min_reconnect_time, 1);
  s.set_int(pack::max_failcount, 32);
  // Those who have nothing to ask of each other stay, to hear what comes.
  s.set_bool(pack::close_redundant_connections, false);

  s.set_int(pack::active_downloads, -1);
  s.set_int(pack::active_seeds, -1);
  s.set_int(pack::active_limit, -1);
  s.set_int(pack::unchoke_slots_limit, -1);
  s.set_bool(pack::auto_sequential, false);
  s.set_int(pack::max_allowed_in_request_queue, kRequestsPerPeerMax);
  s.set_int(pack::request_queue_time, 1);
  s.set_int(pack::request_timeout, 15);
  s.set_int(pack::piece_timeout, 10);
  s.set_int(pack::send_buffer_watermark, kSendBufferBytesMax);
  s.set_int(pack::send_buffer_low_watermark, kSendBufferBytesMax / 4);
  s.set_int(pack::mixed_mode_algorithm, pack::prefer_tcp);
  s.set_int(pack::stop_tracker_timeout, 1);
  // Only how the opening of the port ended; what happens to torrents is asked for, or known from the disk.
  s.set_int(pack::alert_mask, static_cast<int>(static_cast<std::uint32_t>(lt::alert_category::status |
                                                                          lt::alert_category::error)));
  return s;
}

}  // namespace sluice::p2p
