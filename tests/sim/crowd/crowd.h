#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/crowd/sim_node.h"
#include "tests/sim/crowd/sim_registry.h"
#include "tests/sim/crowd/wire.h"
#include "tests/sim/random.h"

namespace sluice::sim {

struct CrowdOptions {
  size_t nodes = 1000;
  uint64_t bytes = 1 << 30;  // of the blob; one-chunk has its own
  uint64_t seed = 1;
  uint64_t inflight_bytes = kInflightAmongMembers;  // fetch.inflightMax as the daemon sets it among members
  double link_bytes = 1e9 / 8;                      // a second, each way, the registry's too
};

// What a run came to, by name.
using Figures = std::vector<std::pair<std::string, double>>;

// Nodes that want the same blob at once, in virtual time. Each is made of the shipped parts (SimNode); the
// network, the registry, the store and the verifier are fakes. Source: PEERS.md, "Simulation".
class Crowd {
 public:
  enum class Case {
    kCold,        // nobody has anything
    kJoin,        // half of the nodes have it all, the others want it
    kJoinParts,   // half of the nodes have each a half of it, the others want it
    kVanish,      // as kCold, and a tenth vanishes for good after a third of the time
    kStaleViews,  // as kCold; in the last 30 s a tenth was replaced, and each knows what was at some time in
                  // them
    kOneChunk,    // a blob of one chunk, which all read
    kByTls,       // as kCold, where a connection costs a handshake
    kControl,     // as kCold with spreading off: homes send to all who ask
  };

  explicit Crowd(const CrowdOptions& options);
  ~Crowd();

  // Once. The figures: makespan_over_bound, origin_over_size, connections_max, control_over_payload,
  // requests_per_asker_max, failed (nodes that did not get it), and what explains them.
  Figures Run(Case which);

 private:
  void MakeNodes(size_t count, const SimNode::Limits& limits);
  void KnowAll();
  void KnowSomethingOld(size_t replaced);
  void Begin(size_t node, Duration delay);
  void Ended(size_t node, const absl::Status& status);
  void VanishSome();
  size_t HomeOfFirst() const;
  Figures Count(Case which, double bound_seconds) const;

  const CrowdOptions options_;
  Random random_;
  BlobSpec spec_;
  Wire wire_;
  SimRegistry registry_;
  std::vector<std::unique_ptr<SimNode>> nodes_;

  std::vector<bool> wants_;
  size_t open_ = 0;    // nodes that want it and have not got it
  size_t failed_ = 0;  // that were told that they can't have it
  Instant began_{}, last_{};
};

// As tests/bench names them; nothing if there is no such case.
std::optional<Crowd::Case> CaseNamed(const std::string& name);

}  // namespace sluice::sim
