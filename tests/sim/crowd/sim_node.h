#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/blob_cache.h"
#include "node/chunk_flow.h"
#include "node/chunk_set.h"
#include "node/daemon/home_blobs.h"
#include "node/telemetry.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/download_budget.h"
#include "p2p/cluster/gated_source.h"
#include "p2p/cluster/holders.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/member_zones.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/spreading.h"
#include "p2p/registry/allow_list.h"
#include "tests/sim/crowd/peer_server.h"
#include "tests/sim/crowd/sim_registry.h"
#include "tests/sim/crowd/sim_transport.h"
#include "tests/sim/crowd/weightless_store.h"
#include "tests/sim/crowd/wire.h"
#include "tests/sim/random.h"

namespace sluice::sim {

// What node/daemon/daemon.cc makes of the default of fetch.inflightMax among members.
inline constexpr uint64_t kInflightAmongMembers = 128 << 20;

class ProvingVerifier final : public ChunkVerifier {
 public:
  absl::StatusOr<Evidence> Verify(const Blob&, ChunkIndex, std::span<const std::byte>) override {
    return Evidence::kVerified;
  }
};

// One node, wired as node/daemon/daemon.cc wires it.
class SimNode {
 public:
  struct Limits {
    uint64_t inflight_bytes = kInflightAmongMembers;
    p2p::SpreadingLimits spreading{};  // the daemon's, but in a control run
  };
  // The number of its port. Wire and registry outlive it.
  SimNode(Wire& wire, SimRegistry& registry, size_t number, uint64_t seed, const Limits& limits);
  ~SimNode();

  static std::string NameOf(size_t number);

  // Its members are these, which have all answered.
  void SetMembers(const std::vector<size_t>& numbers);
  // It has all of the blob, and announces it soon.
  // Those chunks are there from the beginning.
  void Hold(const BlobSpec& spec, const std::function<bool(ChunkIndex)>& has);
  void Start() { holders_->Start(); }
  // `done` when all of it is here.
  void Fill(const BlobSpec& spec, std::function<void(absl::Status)> done);
  void ReadAll(const BlobSpec& spec, Duration deadline, std::function<void(absl::Status)> done);
  // For good: it says nothing any more.
  void Vanish();

  const Telemetry& telemetry() const { return telemetry_; }
  uint64_t present_count(const BlobSpec& spec) const;

 private:
  std::vector<p2p::HeldBlob> Held() const;
  std::optional<ChunkSet> PresentForOthers() const;
  double Fraction() { return static_cast<double>(random_.Next() >> 11) * 0x1p-53; }

  Wire& wire_;
  Port& port_;
  Random random_;
  Telemetry telemetry_;
  index::DiskStore store_;
  ProvingVerifier verifier_;
  const std::shared_ptr<ChunkFlows> flows_ = std::make_shared<ChunkFlows>(wire_.loop);
  std::shared_ptr<Blob> blob_;  // the only one
  p2p::MemberHealth health_;
  p2p::Members members_;
  p2p::AllowList allowed_;
  SimTransport transport_;
  SimOrigin origin_;
  p2p::DownloadBudget download_;
  std::unique_ptr<p2p::GatedSource> paced_origin_, last_resort_;
  std::unique_ptr<p2p::Holders> holders_;
  std::unique_ptr<p2p::ChunkBlame> blame_;
  std::unique_ptr<p2p::ClusterDirectory> sources_;
  std::unique_ptr<BlobCache> cache_;
  p2p::MemberZones zones_;
  std::shared_ptr<HomeBlobs> home_;
  std::unique_ptr<PeerServer> server_;
};

}  // namespace sluice::sim
