#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/hint_route.h"
#include "api/prefetch_backend.h"
#include "node/daemon/hint_carrier.h"
#include "node/executor.h"
#include "node/proven_names.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

// Hints between nodes: POST /sluice/v1/hints with {"sender", "hint"}, where the hint is as the journal has it
// and without targets, and by TLS perhaps "credentials": {"username", "password"}; or with {"sender",
// "cancel"}, the id of one that was passed on. The answer is {"outcome": "taken"}, {"outcome": "cancelled"},
// or {"outcome": "refused", "code", "message"}.
namespace sluice {

// How nodes reach each other.
enum class PeerWire { kPlain, kTls };

// Tells members over their peers' listeners, a few at a time, each of which has a bounded time, and all of
// one hint another: who doesn't answer holds up nobody for longer.
//
// Thread-safe; does not block.
class HintRelay final : public HintCarrier {
 public:
  struct Parts {
    const Clock& clock;
    Executor& io;  // on which `on_told` comes
    const p2p::Members& members;
    p2p::PeerTransport& client;
    PeerWire wire = PeerWire::kPlain;
  };
  struct Limits {
    size_t under_way_max = 64;                     // members asked at once
    size_t waiting_max = 65536;                    // to be asked; beyond: ResourceExhausted
    Duration timeout = std::chrono::seconds(3);    // of one member
    Duration patience = std::chrono::seconds(60);  // of all of a hint
  };
  static constexpr size_t kAnswerBytesMax = 4096;

  // The parts outlive this and what it asks.
  HintRelay(Parts parts, Limits limits);
  // What was not told by then never is.
  ~HintRelay() override;

  Who WhoIs(const std::string& name) const override;
  bool KeepsSecrets() const override;
  void Carry(const api::HintSpec& spec, std::vector<std::string> members, OnTold on_told) override;
  void Recall(const std::string& id, std::vector<std::string> members, OnTold on_told) override;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

// Takes hints that members pass on, as if a client had given them.
//
// Thread-safe; does not block.
class HintInbox final : public api::HintAnswers {
 public:
  // Both outlive this.
  HintInbox(const p2p::Members& members, api::PrefetchBackend& hints, PeerWire wire = PeerWire::kPlain)
      : members_(members), hints_(hints), wire_(wire) {}

  absl::StatusOr<std::string> Take(std::string_view body, const ProvenNames& proven) override;

 private:
  const p2p::Members& members_;
  api::PrefetchBackend& hints_;
  const PeerWire wire_;
};

}  // namespace sluice
