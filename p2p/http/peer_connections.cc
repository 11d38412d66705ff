#include "p2p/http/peer_connections.h"

#include <algorithm>

namespace sluice::p2p {
namespace {

constexpr Duration kEach = Duration(std::chrono::seconds(1)) / PeerConnections::kBeginPerSecond;

}  // namespace

bool PeerConnections::Start(const std::string& to, FetchClass fetch_class, Instant now) {
  Counts& counts = counts_[to];
  if (counts.under_way >= counts.open + counts.granted) {
    if (now < NextBegin(fetch_class)) {
      ForgetUnused(to);
      return false;
    }
    NoteBegun(now);
    ++counts.granted;
  }
  ++counts.under_way;
  return true;
}

void PeerConnections::End(const std::string& to) {
  Counts& counts = counts_[to];
  --counts.under_way;
  // What was granted has been done without, or has failed before there was a socket.
  if (counts.under_way == 0) counts.granted = 0;
  ForgetUnused(to);
}

void PeerConnections::Opened(int socket, const std::string& to, Instant now) {
  Counts& counts = counts_[to];
  // A kept connection may turn out to be dead.
  if (counts.granted == 0) {
    NoteBegun(now);
  } else {
    --counts.granted;
  }
  ++counts.open;
  sockets_[socket] = to;
}

void PeerConnections::Closed(int socket) {
  const auto found = sockets_.find(socket);
  if (found == sockets_.end()) return;
  const std::string to = std::move(found->second);
  sockets_.erase(found);
  --counts_[to].open;
  ForgetUnused(to);
}

Instant PeerConnections::NextBegin(FetchClass fetch_class) const {
  const int at_once = fetch_class == FetchClass::kDemand ? kBeginAtOnce : kBeginAtOnceOfFills;
  return paid_until_ - (at_once - 1) * kEach;
}

void PeerConnections::NoteBegun(Instant now) {
  // However many kept ones were dead at once, the next waits no longer than for what is allowed.
  paid_until_ = std::min(std::max(paid_until_, now), now + (kBeginAtOnce - 1) * kEach) + kEach;
}

void PeerConnections::ForgetUnused(const std::string& to) {
  const auto found = counts_.find(to);
  if (found->second.under_way == 0 && found->second.open == 0) counts_.erase(found);
}

}  // namespace sluice::p2p
