#include "tests/sim/crowd/peer_server.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_split.h"
#include "api/http/chunk_route.h"
#include "p2p/cluster/holder_codec.h"
#include "tests/sim/crowd/head_bytes.h"
#include "tests/sim/crowd/sim_transport.h"

namespace sluice::sim {
namespace {

using p2p::PeerTransport;

// As api/http/chunk_route.cc has them.
constexpr Duration kRetrySoon = std::chrono::milliseconds(5);
constexpr Duration kRetryFill = std::chrono::milliseconds(100);
constexpr uint64_t kInterimBytes = 27;

absl::Status StatusOf(api::PeerRefusal::Why why) {
  switch (why) {
    case api::PeerRefusal::Why::kAbsent:
      return absl::NotFoundError("absent");
    case api::PeerRefusal::Why::kBusy:
      return absl::ResourceExhaustedError("busy");
    case api::PeerRefusal::Why::kAskYourself:
      return absl::UnauthenticatedError("ask-yourself");
    case api::PeerRefusal::Why::kNoRoom:
      return absl::UnavailableError("no room");
    case api::PeerRefusal::Why::kContradicted:
      return absl::FailedPreconditionError("contradicted");
  }
  return absl::UnavailableError("no such answer");
}

// As api/http/peer_routes.h has it.
constexpr int kFillsMax = 768;

// As they are told: in whole milliseconds, at least one.
Duration OnTheWire(Duration retry) {
  const auto whole = std::chrono::ceil<std::chrono::milliseconds>(retry);
  return std::clamp<Duration>(whole, std::chrono::milliseconds(1), PeerTransport::kRetryAfterMax);
}

}  // namespace

void PeerServer::Arrive(const CallPtr& call) {
  if (call->gone) return;
  calls_.insert(call);
  call->is_help = call->request.role == PeerRole::kPresentOnly;
  if (call->request.fetch_class != FetchClass::kDemand) {
    if (fills_ >= kFillsMax) return Refuse(call, {.why = api::PeerRefusal::Why::kBusy, .retry = kRetryFill});
    ++fills_;
    call->is_fill = true;
  }
  call->give_up = home_.Ask(
      std::move(call->request), [this, call] { SayWaiting(call); },
      [this, call](api::PeerBlobAnswer answer) { Answer(call, std::move(answer)); });
}

void PeerServer::SayWaiting(const CallPtr& call) {
  if (call->gone || call->answered) return;
  ++wire_.traffic.interims;
  wire_.traffic.control_bytes += kInterimBytes;
  wire_.Later(Wire::kHalf, [call] { call->asker->Interim(call); });
  port_.node.PostAt(wire_.loop.Now() + api::ChunkRoute::kInterimEvery, [this, call] { SayWaiting(call); });
}

void PeerServer::Answer(const CallPtr& call, api::PeerBlobAnswer answer) {
  if (call->gone) return Over(call);
  if (const auto* const refusal = std::get_if<api::PeerRefusal>(&answer)) return Refuse(call, *refusal);
  port_.node.Post([this, call, bytes = std::get<api::PeerBytes>(std::move(answer))]() mutable {
    SendBytes(call, std::move(bytes));
  });
}

void PeerServer::Refuse(const CallPtr& call, const api::PeerRefusal& refusal) {
  const bool busy = refusal.why == api::PeerRefusal::Why::kBusy;
  const bool absent = refusal.why == api::PeerRefusal::Why::kAbsent;
  ++(busy ? wire_.traffic.busy : absent ? wire_.traffic.absent : wire_.traffic.refused);
  if (busy && call->is_help) ++wire_.traffic.busy_helpers;
  if (busy && !call->is_help && refusal.helpers.empty()) ++wire_.traffic.busy_alone;
  wire_.traffic.control_bytes += busy ? kBusyBytes : kAbsentBytes;
  for (const std::string& name : refusal.helpers) wire_.traffic.control_bytes += name.size() + 1;
  Over(call);
  PeerTransport::ChunkOutcome outcome{.status = StatusOf(refusal.why), .retry_after = {}, .helpers = {}};
  if (busy) outcome.retry_after = OnTheWire(refusal.retry);
  outcome.helpers = refusal.helpers;
  outcome.helpers.resize(std::min(outcome.helpers.size(), PeerTransport::kHelpersMax));
  wire_.Later(Wire::kHalf, [call, outcome = std::move(outcome)]() mutable {
    call->asker->Ended(call, std::move(outcome), SimTransport::Connection::kKept);
  });
}

void PeerServer::SendBytes(const CallPtr& call, api::PeerBytes bytes) {
  if (call->gone) return Over(call);
  const Blob& blob = bytes.lease.blob();
  const ByteRange range = call->range;
  const ChunkSpan chunk = blob.geometry().Covering(range);
  if (!bytes.flow && !blob.presence().AllPresent(chunk))
    return Refuse(call, {.why = api::PeerRefusal::Why::kBusy, .retry = kRetrySoon});
  call->answered = true;
  call->bytes = std::move(bytes);
  ++wire_.traffic.served;
  ++port_.sent;
  wire_.traffic.control_bytes += kServedBytes;
  Port& client = *wire_.ports[call->client];
  if (client.node.dead()) return;  // until the server gives the connection up
  const auto coming = port_.coming.find(chunk.first);
  const TransferPtr ahead =
      call->bytes->flow && coming != port_.coming.end() ? coming->second.lock() : nullptr;
  call->is_whole = call->bytes->flow == nullptr;
  if (!call->is_whole) ++wire_.traffic.passed_on;
  call->vouch->coming = !call->is_whole;
  call->transfer = wire_.links.Start(
      port_.up, client.down, range.length,
      [this, call] {
        call->is_sent = true;
        if (call->is_whole) Sent(call);
        return uint64_t{0};
      },
      ahead.get());
  wire_.Later(Wire::kHalf, [call] { call->asker->FirstBytes(call); });
  if (call->is_whole) return;
  const std::shared_ptr<ChunkFlow> flow = call->bytes->flow;
  // At the very end the flow may outlive this.
  flow->Await(flow->length(), [this, &node = port_.node, call](std::optional<size_t> count) {
    node.Post([this, call, count] { count ? CameWhole(call) : ComesNoMore(call); });
  });
}

// Its last byte may go.
void PeerServer::CameWhole(const CallPtr& call) {
  call->is_whole = true;
  if (call->is_sent && !call->gone) Sent(call);
}

// As api/http/flow_parts.cc does, it closes the connection.
void PeerServer::ComesNoMore(const CallPtr& call) {
  if (call->gone || call->is_whole) return;
  wire_.links.Stop(*call->transfer);
  ++wire_.traffic.broken_off;
  Over(call);
  wire_.Later(Wire::kHalf, [call] {
    call->asker->Ended(call,
                       {.status = absl::UnavailableError("broken off"), .retry_after = {}, .helpers = {}},
                       SimTransport::Connection::kClosed);
  });
}

void PeerServer::Sent(const CallPtr& call) {
  wire_.traffic.chunk_bytes += call->range.length;
  wire_.Later(Wire::kHalf, [call] { call->asker->LastBytes(call); });
  wire_.Later(Wire::kTrip, [this, call] {
    if (port_.node.dead() || call->gone) return;
    if (call->bytes && call->bytes->on_taken) std::move(call->bytes->on_taken)();
    Over(call);
  });
}

void PeerServer::Gone(const CallPtr& call) {
  call->gone = true;
  if (call->transfer) wire_.links.Stop(*call->transfer);
  if (call->give_up) std::move(call->give_up)();
  Over(call);
}

void PeerServer::End() {
  for (const CallPtr& call : std::exchange(calls_, {})) Gone(call);
}

void PeerServer::Over(const CallPtr& call) {
  calls_.erase(call);
  call->answered = true;
  call->bytes.reset();
  call->give_up = nullptr;
  if (call->is_fill) --fills_;
  call->is_fill = false;
}

std::string PeerServer::Document(const PeerTransport::Question& question) {
  if (!question.body.empty()) {
    (void)holders_.Take(question.body);
    return {};
  }
  const size_t path_end = question.path_and_query.find('?');
  const std::string path = question.path_and_query.substr(0, path_end);
  std::map<std::string, std::string> values;
  for (const absl::string_view field : absl::StrSplit(question.path_and_query.substr(path_end + 1), '&'))
    values.insert(std::pair<std::string, std::string>(absl::StrSplit(field, absl::MaxSplits('=', 1))));
  if (path == p2p::kHoldersPath)
    return holders_.Answer(
        {values["digest"], values["size"], values["chunk"], values["root"], values["shares"]});
  const std::string digest = path.substr(std::min(path.size(), sizeof(p2p::kPresencePath)));
  return holders_.AnswerPresence({digest, values["size"], values["chunk"], values["root"]}).value_or("");
}

}  // namespace sluice::sim
