#include "tests/sim/crowd/sim_transport.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_split.h"
#include "api/http/chunk_request.h"
#include "tests/sim/crowd/peer_server.h"
#include "tests/sim/crowd/weightless_buffers.h"

namespace sluice::sim {
namespace {

// As p2p/http/http_client.h and p2p/cluster/peer_client.h have them: under way at once, in all and for one
// blob of one member; that nothing comes, that nothing has come yet of who is asked for what it has, and that
// no connection is taken.
constexpr size_t kRequestsMax = 256;
const uint32_t kRequestsOfMemberMax = p2p::PeerClientOptions().requests_per_member_max;
const Duration kSilenceMax = p2p::PeerClientOptions().silence_max;
const Duration kPresentSilenceMax = p2p::PeerClientOptions().present_silence_max;
const Duration kDialMax = p2p::PeerClientOptions().dial_silence_max;
// As node/daemon/daemon_members.cc has it, in the clear: connections that a server keeps.
constexpr uint32_t kServerKeepsMax = 96;
constexpr Duration kSweepEvery = std::chrono::milliseconds(100);
constexpr size_t kSweepPhases = 97;
// A server whose client says nothing more closes after that.
constexpr Duration kIdleMax = std::chrono::seconds(30);
// Connections that are kept with nothing under way. Those of fills and of readers are not kept apart here.
size_t KeptMax(const Wire& wire) {
  const p2p::PeerClientOptions options;
  return wire.is_by_tls ? options.kept_by_tls_max : options.kept_max;
}
// What comes of a chunk at first.
constexpr uint64_t kFirstBytes = 1 << 10;
constexpr uint64_t kDocumentHeadBytes = 600;  // of question and answer

}  // namespace

SimTransport::SimTransport(Wire& wire, size_t node, std::string name)
    : wire_(wire), node_(node), name_(std::move(name)), port_(*wire.ports[node]), kept_max_(KeptMax(wire)) {}

SimTransport::RequestId SimTransport::ReadChunk(const p2p::Member& member, const ChunkQuestion& question,
                                                OnData on_data, OnSign on_sign, OnChunkDone on_done) {
  auto call = std::make_shared<Call>();
  call->id = next_id_++;
  call->client = node_;
  call->server = Wire::NodeAt(member.address);
  call->asker = this;
  call->range = question.range;
  call->chunk = ChunkIndex(static_cast<uint32_t>(question.range.offset / question.blob->chunk_size));
  BlobSpec& spec = call->request.claim.spec;
  spec.digest = question.blob->digest;
  spec.size = question.blob->size;
  spec.chunk_size = question.blob->chunk_size;
  spec.root = question.blob->root;
  spec.origins = {*question.origin};
  call->request.claim.access = question.access;
  call->request.role = question.role == p2p::PeerRole::kHome       ? PeerRole::kHome
                       : question.role == p2p::PeerRole::kZoneHome ? PeerRole::kZoneHome
                                                                   : PeerRole::kPresentOnly;
  call->request.range = question.range;
  call->request.fetch_class =
      question.fetch_class == FetchClass::kDemand ? FetchClass::kDemand : FetchClass::kBackfill;
  call->request.deadline = std::min(question.deadline, wire_.loop.Now() + api::kPeerDeadlineMax);
  call->request.asker = name_;
  call->request.is_sent_on = question.is_sent_on;
  call->vouch = question.vouch;
  if (!question.tried.empty()) call->request.tried = absl::StrSplit(question.tried, ',');
  call->deadline = question.deadline;
  call->quiet_max = wire_.is_by_tls ? Duration(0) : question.quiet_max;
  call->on_data = std::move(on_data);
  call->on_sign = std::move(on_sign);
  call->on_done = std::move(on_done);
  queue_.push_back(call);
  port_.node.Post([this] { StartQueued(); });
  return call->id;
}

// Null: there is nobody any more.
PeerServer* SimTransport::ServerAt(size_t node) const {
  const Port& port = *wire_.ports[node];
  return port.node.dead() ? nullptr : port.server;
}

// As p2p/http/http_client.cc has it.
bool SimTransport::MayConnect(const Call& call) {
  if (!wire_.is_by_tls) return true;
  const FetchClass fetch_class = call.request.fetch_class;
  if (connections_.Start(std::to_string(call.server), fetch_class, wire_.loop.Now())) return true;
  const Instant next = connections_.NextBegin(fetch_class);
  if (next >= may_connect_) return false;
  may_connect_ = next;
  port_.node.PostAt(next, [this] {
    may_connect_ = Instant::max();
    StartQueued();
  });
  return false;
}

void SimTransport::StartQueued() {
  for (auto next = queue_.begin(); next != queue_.end() && active_.size() < kRequestsMax;) {
    uint32_t& of_server = active_of_server_[(*next)->server];
    if (of_server >= kRequestsOfMemberMax || !MayConnect(**next)) {
      ++next;
      continue;
    }
    ++of_server;
    const CallPtr call = std::move(*next);
    next = queue_.erase(next);
    Begin(call);
  }
}

void SimTransport::Begin(const CallPtr& call) {
  active_.emplace(call->id, call);
  ++port_.asked;
  ++wire_.traffic.requests;
  wire_.traffic.control_bytes += wire_.question_bytes;
  for (const std::string& name : call->request.tried) wire_.traffic.control_bytes += name.size() + 1;
  call->began = wire_.loop.Now();
  const Duration dial = Connect(call->server);
  call->is_untaken = dial > Duration(0) && !ServerAt(call->server);
  wire_.Later(dial + Wire::kHalf, [this, call] {
    if (PeerServer* const server = ServerAt(call->server)) server->Arrive(call);
  });
  if (call->quiet_max > Duration(0))
    port_.node.PostAt(wire_.loop.Now() + call->quiet_max, [this, call] { EndIfQuiet(call); });
  if (std::exchange(sweeps_, true)) return;
  // Nodes that begin at the same moment do not look at the same moments.
  const Duration phase = kSweepEvery * (node_ % kSweepPhases) / kSweepPhases;
  port_.node.PostAt(wire_.loop.Now() + phase, [this] { Sweep(); });
}

bool SimTransport::IsKept(size_t server) const {
  return std::find(idle_.begin(), idle_.end(), server) != idle_.end();
}

Duration SimTransport::Connect(size_t server) {
  if (TakeKept(server)) return {};
  CloseOneBeyond(kept_max_);
  Port& port = *wire_.ports[server];
  if (!wire_.is_by_tls && port.accepted >= kServerKeepsMax && !port.idle.empty())
    port.idle.front()->DropKept(server);
  wire_.Open(node_, server);
  ++wire_.traffic.dials;
  if (!wire_.is_by_tls) return Wire::kTrip;
  sockets_[server].push_back(next_socket_);
  connections_.Opened(next_socket_++, std::to_string(server), wire_.loop.Now());
  return 2 * Wire::kTrip;
}

void SimTransport::Release(size_t server, Connection connection) {
  Port& port = *wire_.ports[server];
  const bool is_kept = wire_.is_by_tls || port.accepted <= kServerKeepsMax;
  if (connection == Connection::kClosed || !is_kept) return Close(server);
  idle_.push_back(server);
  port.idle.push_back(this);
  CloseOneBeyond(kept_max_);
}

bool SimTransport::TakeKept(size_t server) {
  const auto kept = std::find(idle_.rbegin(), idle_.rend(), server);
  if (kept == idle_.rend()) return false;
  idle_.erase(std::next(kept).base());
  std::deque<SimTransport*>& idle = wire_.ports[server]->idle;
  idle.erase(std::find(idle.begin(), idle.end(), this));
  return true;
}

void SimTransport::DropKept(size_t server) {
  if (TakeKept(server)) Close(server);
}

void SimTransport::Close(size_t server) {
  wire_.Close(node_, server);
  if (!wire_.is_by_tls) return;
  std::vector<int>& sockets = sockets_.at(server);
  connections_.Closed(sockets.back());
  sockets.pop_back();
}

void SimTransport::CloseOneBeyond(size_t kept) {
  if (idle_.size() <= kept) return;
  const size_t server = idle_.front();
  idle_.erase(idle_.begin());
  std::deque<SimTransport*>& idle = wire_.ports[server]->idle;
  idle.erase(std::find(idle.begin(), idle.end(), this));
  Close(server);
}

void SimTransport::Interim(const CallPtr& call) {
  if (!call->on_done || port_.node.dead()) return;
  Heard(*call);
  call->on_sign(false);
}

void SimTransport::FirstBytes(const CallPtr& call) {
  if (!call->on_done || port_.node.dead()) return;
  Heard(*call);
  port_.coming.try_emplace(call->chunk, call->transfer);
  call->on_data(WeightlessBytes().first(std::min(kFirstBytes, call->range.length - 1)));
}

void SimTransport::LastBytes(const CallPtr& call) {
  if (!call->on_done || port_.node.dead()) return;
  const uint64_t first = std::min(kFirstBytes, call->range.length - 1);
  call->on_data(WeightlessBytes().subspan(first, call->range.length - first));
  Ended(call, {.status = absl::OkStatus(), .retry_after = {}, .helpers = {}}, Connection::kKept);
}

void SimTransport::Ended(const CallPtr& call, ChunkOutcome outcome, Connection connection) {
  if (!call->on_done || port_.node.dead()) return;
  OnChunkDone on_done = std::exchange(call->on_done, nullptr);
  call->on_data = nullptr;
  call->on_sign = nullptr;
  active_.erase(call->id);
  const auto coming = port_.coming.find(call->chunk);
  if (coming != port_.coming.end() && coming->second.lock() == call->transfer) port_.coming.erase(coming);
  if (connection == Connection::kKept) Heard(*call);
  --active_of_server_[call->server];
  if (wire_.is_by_tls) connections_.End(std::to_string(call->server));
  Release(call->server, connection);
  std::move(on_done)(std::move(outcome));
  StartQueued();
}

// It has not answered, and nobody waits for its answer.
void SimTransport::Fail(const CallPtr& call, absl::Status status) {
  wire_.Later(Wire::kHalf, [this, call] {
    if (PeerServer* const server = ServerAt(call->server)) server->Gone(call);
  });
  Ended(call, {.status = std::move(status), .retry_after = {}, .helpers = {}}, Connection::kClosed);
}

void SimTransport::EndIfQuiet(const CallPtr& call) {
  if (!call->on_done || call->heard) return;
  ++wire_.traffic.failed;
  Fail(call, absl::UnavailableError("quiet"));
}

void SimTransport::Heard(Call& call) {
  call.heard = wire_.loop.Now();
  heard_of_server_[call.server] = wire_.loop.Now();
}

// Of which nothing came, on whatever connection, while one waited in vain, or was dialled in vain.
std::vector<size_t> SimTransport::SilentServers(Instant now) const {
  std::vector<size_t> silent;
  for (const auto& [id, call] : active_) {
    if (now - call->SilentSince() < (call->is_untaken ? kDialMax : kSilenceMax)) continue;
    const auto heard = heard_of_server_.find(call->server);
    if (heard == heard_of_server_.end() || heard->second <= call->SilentSince())
      silent.push_back(call->server);
  }
  return silent;
}

void SimTransport::Sweep() {
  const Instant now = wire_.loop.Now();
  for (const auto& [id, call] : active_) {
    if (call->Flows()) Heard(*call);
  }
  const std::vector<size_t> silent_servers = SilentServers(now);
  std::vector<CallPtr> silent, late;
  for (const auto& [id, call] : active_) {
    const bool is_first = !call->heard && call->request.role == PeerRole::kPresentOnly;
    if (call->deadline <= now) {
      late.push_back(call);
    } else if (now - call->SilentSince() >= (is_first ? kPresentSilenceMax : kSilenceMax) ||
               std::count(silent_servers.begin(), silent_servers.end(), call->server) > 0) {
      silent.push_back(call);
    }
  }
  for (const CallPtr& call : silent) {
    ++wire_.traffic.failed;
    Fail(call, absl::UnavailableError("silent"));
  }
  for (const CallPtr& call : late) Fail(call, absl::DeadlineExceededError("late"));
  sweeps_ = !active_.empty();
  if (sweeps_) port_.node.PostAt(now + kSweepEvery, [this] { Sweep(); });
}

void SimTransport::Cancel(RequestId id) {
  port_.node.Post([this, id] {
    const auto queued =
        std::find_if(queue_.begin(), queue_.end(), [&](const CallPtr& call) { return call->id == id; });
    if (queued != queue_.end()) {
      const CallPtr call = std::move(*queued);
      queue_.erase(queued);
      return std::exchange(call->on_done, nullptr)(
          {.status = absl::CancelledError("cancelled"), .retry_after = {}, .helpers = {}});
    }
    const auto found = active_.find(id);
    if (found != active_.end()) Fail(CallPtr(found->second), absl::CancelledError("cancelled"));
  });
}

// Nothing waits here for long.
void SimTransport::Raise(RequestId, FetchClass) {}

void SimTransport::After(Duration delay, Task task) {
  port_.node.PostAt(wire_.loop.Now() + delay, std::move(task));
}

void SimTransport::Ask(const p2p::Member& member, const Question& question, OnAnswer on_answer) {
  const size_t server = Wire::NodeAt(member.address);
  wire_.traffic.control_bytes += kDocumentHeadBytes + question.path_and_query.size() + question.body.size();
  if (!ServerAt(server)) {
    const Duration silence = IsKept(server) ? kSilenceMax : kDialMax;
    port_.node.PostAt(wire_.loop.Now() + silence, [on_answer = std::move(on_answer)]() mutable {
      std::move(on_answer)(absl::UnavailableError("silent"));
    });
    return;
  }
  wire_.Later(
      Connect(server) + Wire::kHalf, [this, server, question, on_answer = std::move(on_answer)]() mutable {
        PeerServer* const asked = ServerAt(server);
        std::string body = asked ? asked->Document(question) : std::string();
        wire_.traffic.control_bytes += body.size();
        wire_.Later(Wire::kHalf,
                    [this, server, body = std::move(body), on_answer = std::move(on_answer)]() mutable {
                      if (port_.node.dead()) return;
                      Release(server, Connection::kKept);
                      std::move(on_answer)(Answer{"application/json", std::move(body)});
                    });
      });
}

void SimTransport::Vanish() {
  for (const auto& [id, call] : active_)
    wire_.Later(kIdleMax, [this, call = call] {
      if (PeerServer* const server = ServerAt(call->server)) server->Gone(call);
    });
}

}  // namespace sluice::sim
