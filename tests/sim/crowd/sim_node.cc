#include "tests/sim/crowd/sim_node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/daemon/peer_documents.h"
#include "p2p/cluster/last_resort.h"
#include "p2p/cluster/member_probes.h"
#include "p2p/cluster/pace.h"

namespace sluice {

// As node/daemon/peer_documents.cc, the rest of which needs the store's bytes.
bool IsPublicSomewhere(const Blob& blob, const AccessLedger& ledger) {
  return IsPublic(ledger.AccessOf(blob.key(), blob.facts()->origins.front()));
}

namespace sim {
namespace {

// What node/daemon/config.h and daemon.cc set among members.
constexpr uint64_t kLastResortRate = 8 << 20;
constexpr uint32_t kFillFetches = 256;

BlobCacheLimits LimitsAmongMembers(uint64_t inflight_bytes) {
  BlobCacheLimits limits;
  limits.inflight_bytes_max = inflight_bytes;
  for (const FetchClass fill : {FetchClass::kHint, FetchClass::kBackfill})
    limits.fetches_max[static_cast<size_t>(fill)] = kFillFetches;
  return limits;
}

p2p::MemberRow RowOf(size_t number) {
  return {SimNode::NameOf(number), {Wire::AddressOf(number)}, "", p2p::kProtocolMajor, 1};
}

p2p::Members::Options OptionsOf(const Wire& wire, size_t number) {
  p2p::Members::Options options;
  options.self = Wire::AddressOf(number);
  options.row = RowOf(number);
  options.now = [&wire] { return wire.loop.Now(); };
  return options;
}

}  // namespace

std::string SimNode::NameOf(size_t number) {
  return absl::StrCat("node-", number);
}

SimNode::SimNode(Wire& wire, SimRegistry& registry, size_t number, uint64_t seed, const Limits& limits)
    : wire_(wire),
      port_(*wire.ports[number]),
      random_(seed * 1'000'003 + number),
      members_(OptionsOf(wire, number)),
      allowed_(*p2p::AllowList::Create(std::vector<std::string>{"*"})),
      transport_(wire, number, NameOf(number)),
      origin_(wire, registry, port_, store_),
      download_(wire.loop, 0),
      zones_(wire.loop, members_) {
  health_.ProbeBy(std::make_shared<p2p::MemberProbes>(
      p2p::MemberProbes::Parts{wire.loop, members_, health_, transport_}));
  const p2p::GateQueue::Parts gated{wire.loop, port_.node};
  const auto first_wait = [this] { return p2p::FirstWait(members_.view()->members.size(), Fraction()); };
  paced_origin_ = std::make_unique<p2p::GatedSource>(
      origin_, gated,
      std::make_unique<p2p::Pace>(p2p::Pace::kWindowFirst, p2p::Pace::kWindowMin, first_wait));
  last_resort_ = std::make_unique<p2p::GatedSource>(
      origin_, gated,
      std::make_unique<p2p::LastResortGate>(
          kLastResortRate, [this] { return members_.view()->members.size(); }, telemetry_));
  holders_ = std::make_unique<p2p::Holders>(p2p::Holders::Parts{
      wire.loop, port_.node, members_, health_, transport_, [this] { return Held(); },
      [this] { return Fraction(); }, [this](const p2p::BlobIdentity&) { return PresentForOthers(); }});
  blame_ = std::make_unique<p2p::ChunkBlame>(p2p::ChunkBlame::Parts{
      wire.loop, &members_, health_, telemetry_, [](const std::string&) {}, [](const std::string&) {}});
  sources_ = std::make_unique<p2p::ClusterDirectory>(p2p::ClusterDirectory::Parts{
      wire.loop, port_.node, members_, health_, transport_, store_,
      [](const std::shared_ptr<Blob>&, const std::string&, auto then) { std::move(then)(true); },
      [] { return false; }, [this] { return Fraction(); }, [](const std::string&) {}, download_, *holders_,
      *paced_origin_, *last_resort_, *blame_});
  cache_ = std::make_unique<BlobCache>(BlobCache::Parts{wire.loop,
                                                        port_.node,
                                                        port_.node,
                                                        store_,
                                                        verifier_,
                                                        *sources_,
                                                        telemetry_,
                                                        nullptr,
                                                        {},
                                                        flows_.get()},
                                       LimitsAmongMembers(limits.inflight_bytes));
  const auto spreader = std::make_shared<p2p::Spreader>(
      wire.loop, [this](const std::string& name) { return zones_.Find(name); }, limits.spreading);
  HomeBlobs::Parts parts{wire.loop,
                         port_.node,
                         store_,
                         *cache_,
                         allowed_,
                         spreader,
                         [](const std::string&) { return false; },
                         NameOf(number)};
  parts.flows = flows_;
  home_ = std::make_shared<HomeBlobs>(std::move(parts));
  home_->WatchFlows();
  server_ = std::make_unique<PeerServer>(wire, port_, *home_, *holders_);
  port_.server = server_.get();
}

// What it answers at its end goes to others.
SimNode::~SimNode() {
  cache_.reset();
}

void SimNode::SetMembers(const std::vector<size_t>& numbers) {
  members_.Change([&](p2p::MemberTable& table, Instant now) {
    for (const size_t number : numbers) {
      if (NameOf(number) != table.self().name) table.HeardFrom(RowOf(number), Wire::AddressOf(number), now);
    }
  });
}

void SimNode::Hold(const BlobSpec& spec, const std::function<bool(ChunkIndex)>& has) {
  blob_ = *store_.Open(spec);
  store_.NoteAccess(blob_->key(), spec.origins.front(), OriginAccess::kPublic);
  for (ChunkIndex index; index.value() < blob_->geometry().chunk_count(); index = index.next())
    if (has(index)) blob_->presence().Set(index);
}

std::vector<p2p::HeldBlob> SimNode::Held() const {
  if (!blob_ || blob_->presence().present_count() == 0 || !IsPublicSomewhere(*blob_, store_)) return {};
  return {{*p2p::Holders::IdentityOf(*blob_), blob_->presence().complete(), blob_->present_bytes()}};
}

std::optional<ChunkSet> SimNode::PresentForOthers() const {
  if (Held().empty()) return std::nullopt;
  return blob_->presence().Snapshot();
}

void SimNode::Fill(const BlobSpec& spec, std::function<void(absl::Status)> done) {
  blob_ = *store_.Open(spec);
  cache_->Fill({.blob = blob_->key(), .fetch_class = FetchClass::kHint},
               [done = std::move(done)](absl::Status status) { done(std::move(status)); });
}

void SimNode::ReadAll(const BlobSpec& spec, Duration deadline, std::function<void(absl::Status)> done) {
  blob_ = *store_.Open(spec);
  cache_->Read({.blob = blob_->key(), .range = {0, spec.size}, .deadline = wire_.loop.Now() + deadline},
               [done = std::move(done)](const absl::StatusOr<ReadResult>& result) { done(result.status()); });
}

void SimNode::Vanish() {
  port_.node.Die();
  wire_.links.Cut(port_.up);
  wire_.links.Cut(port_.down);
  transport_.Vanish();
}

uint64_t SimNode::present_count(const BlobSpec& spec) const {
  const std::shared_ptr<Blob> blob = store_.Find(spec.digest);
  return blob ? blob->presence().present_count() : 0;
}

}  // namespace sim
}  // namespace sluice
