#include "tests/sim/crowd/crowd.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/ranks.h"
#include "p2p/recipe/sha256.h"

namespace sluice::sim {
namespace {

constexpr uint32_t kChunk = kChunkSizeDefault;
// Nodes begin within that.
constexpr Duration kStart = std::chrono::milliseconds(50);
// The registry's holders are told before others come.
constexpr Duration kAnnounced = std::chrono::seconds(5);
constexpr Duration kStale = std::chrono::seconds(30);
constexpr Duration kReadDeadline = std::chrono::seconds(30);
constexpr double kGivenUp = 30;  // times the bound, and not before kReadDeadline

double Seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}
Duration Of(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

// The head of a question for a chunk as p2p/cluster/peer_client.cc writes it.
uint64_t QuestionBytes(const BlobSpec& spec) {
  const BlobOrigin& origin = spec.origins.front();
  return absl::StrCat(
             "GET ", p2p::RegistryPathOf(origin, "blobs", spec.digest),
             " HTTP/1.1\r\nHost: 10.100.100.100:7301\r\n"
             "Sluice-Role: present-only\r\nSluice-Deadline-Ms: 60000\r\nRange: bytes=100000000-100262143\r\n"
             "Sluice-Class: demand\r\nSluice-Blob: ",
             FormatBlobClaim(spec, origin, BlobClaim::Access::kPublic), "\r\nSluice-From: node-100\r\n\r\n")
      .size();
}

}  // namespace

std::optional<Crowd::Case> CaseNamed(const std::string& name) {
  constexpr std::pair<const char*, Crowd::Case> kNames[] = {{"cold", Crowd::Case::kCold},
                                                            {"join", Crowd::Case::kJoin},
                                                            {"join-parts", Crowd::Case::kJoinParts},
                                                            {"vanish", Crowd::Case::kVanish},
                                                            {"stale-views", Crowd::Case::kStaleViews},
                                                            {"one-chunk", Crowd::Case::kOneChunk},
                                                            {"by-tls", Crowd::Case::kByTls},
                                                            {"control", Crowd::Case::kControl}};
  for (const auto& [text, value] : kNames) {
    if (name == text) return value;
  }
  return std::nullopt;
}

Crowd::Crowd(const CrowdOptions& options)
    : options_(options), random_(options.seed), registry_(options_.link_bytes) {}

// What is under way holds nodes, and itself.
Crowd::~Crowd() {
  for (const auto& port : wire_.ports) port->node.Die();
  for (const auto& port : wire_.ports) {
    port->server->End();
    wire_.links.Cut(port->up);
    wire_.links.Cut(port->down);
  }
  wire_.loop.DropAll();
  nodes_.clear();
}

void Crowd::MakeNodes(size_t count, const SimNode::Limits& limits) {
  for (size_t i = 0; i < count; ++i)
    wire_.ports.push_back(std::make_unique<Port>(wire_.loop, options_.link_bytes));
  for (size_t i = 0; i < count; ++i)
    nodes_.push_back(std::make_unique<SimNode>(wire_, registry_, i, options_.seed, limits));
  wants_.resize(count);
}

void Crowd::KnowAll() {
  std::vector<size_t> all(nodes_.size());
  std::iota(all.begin(), all.end(), size_t{0});
  for (const auto& node : nodes_) node->SetMembers(all);
}

// The last so many nodes are those that have gone, and were replaced by the first.
void Crowd::KnowSomethingOld(size_t replaced) {
  std::vector<double> replaced_at(replaced);
  for (double& at : replaced_at) at = static_cast<double>(random_.Below(1000));
  for (size_t i = 0; i < options_.nodes; ++i) {
    const double seen_at = static_cast<double>(random_.Below(1000));
    std::vector<size_t> known;
    for (size_t other = 0; other < options_.nodes; ++other) {
      const bool is_there = other >= replaced || other == i || replaced_at[other] <= seen_at;
      known.push_back(is_there ? other : options_.nodes + other);
    }
    nodes_[i]->SetMembers(known);
  }
  for (size_t i = 0; i < replaced; ++i) nodes_[options_.nodes + i]->Vanish();
}

void Crowd::Begin(size_t node, Duration delay) {
  wants_[node] = true;
  ++open_;
  wire_.ports[node]->node.PostAt(began_ + delay, [this, node] {
    const auto done = [this, node](const absl::Status& status) { Ended(node, status); };
    if (spec_.size <= kChunk) {
      nodes_[node]->ReadAll(spec_, kReadDeadline, done);
    } else {
      nodes_[node]->Fill(spec_, done);
    }
  });
}

void Crowd::Ended(size_t node, const absl::Status& status) {
  if (wire_.ports[node]->node.dead()) return;
  if (!status.ok()) ++failed_;
  --open_;
  last_ = wire_.loop.Now();
}

void Crowd::VanishSome() {
  std::vector<size_t> order(options_.nodes);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = 0; i < options_.nodes / 10; ++i) {
    std::swap(order[i], order[random_.Between(i, order.size() - 1)]);
    const size_t node = order[i];
    if (nodes_[node]->present_count(spec_) < ChunkGeometry(spec_.size, spec_.chunk_size).chunk_count())
      --open_;
    wants_[node] = false;
    nodes_[node]->Vanish();
  }
}

Figures Crowd::Run(Case which) {
  const bool one_chunk = which == Case::kOneChunk;
  spec_.digest = p2p::Sha256::Of(absl::StrCat("blob ", options_.seed));
  spec_.size = one_chunk ? kChunk : options_.bytes;
  spec_.chunk_size = kChunk;
  spec_.root = p2p::Sha256::Of("root");
  spec_.origins = {{"registry.example", "team/app"}};
  wire_.question_bytes = QuestionBytes(spec_);

  SimNode::Limits limits{.inflight_bytes = options_.inflight_bytes};
  if (which == Case::kControl)
    limits.spreading = {.fanout = UINT16_MAX,
                        .fills_max = UINT16_MAX,
                        .waiting_max = 1 << 20,
                        .of_chunk_max = 1 << 20,
                        .helpers_max = 0};
  wire_.is_by_tls = limits.spreading.same_helpers = which == Case::kByTls;
  const size_t replaced = which == Case::kStaleViews ? options_.nodes / 10 : 0;
  MakeNodes(options_.nodes + replaced, limits);
  if (replaced > 0) {
    KnowSomethingOld(replaced);
  } else {
    KnowAll();
  }
  for (const auto& node : nodes_) node->Start();
  const bool in_parts = which == Case::kJoinParts;
  const size_t first = which == Case::kJoin || in_parts ? options_.nodes / 2 : 0;
  for (size_t i = 0; i < first; ++i)
    nodes_[i]->Hold(spec_, [&](ChunkIndex) { return !in_parts || random_.Below(2) == 0; });
  if (first > 0) wire_.loop.RunUntil(wire_.loop.Now() + kAnnounced, [] { return false; });

  double bound = static_cast<double>(spec_.size) / options_.link_bytes;
  if (one_chunk)
    bound = bound * (1 + std::log2(static_cast<double>(options_.nodes))) +
            Seconds(SimRegistry::kTrip + 2 * Wire::kTrip);
  began_ = wire_.loop.Now();
  wire_.traffic = {};
  for (const auto& port : wire_.ports) port->connections_max = port->connections;
  for (size_t i = first; i < options_.nodes; ++i)
    Begin(i, one_chunk ? Duration(0) : Duration(static_cast<int64_t>(random_.Below(kStart.count()))));
  if (which == Case::kVanish) wire_.Later(Of(bound / 3), [this] { VanishSome(); });
  wire_.loop.RunUntil(began_ + std::max<Duration>(Of(bound * kGivenUp), 2 * kReadDeadline),
                      [this] { return open_ == 0; });
  return Count(which, bound);
}

// Of a blob of one stripe.
size_t Crowd::HomeOfFirst() const {
  std::vector<uint64_t> keys;
  std::vector<std::pair<std::string, size_t>> names;
  for (size_t i = 0; i < options_.nodes; ++i) names.emplace_back(SimNode::NameOf(i), i);
  std::sort(names.begin(), names.end());
  for (const auto& [name, number] : names) keys.push_back(p2p::ScoreKeyOf(name));
  return names[p2p::AssignHomes(p2p::ScoreKeyOf(spec_.digest), 1, keys)[0]].second;
}

Figures Crowd::Count(Case which, double bound_seconds) const {
  const double size = static_cast<double>(spec_.size);
  const double chunks = static_cast<double>(ChunkGeometry(spec_.size, spec_.chunk_size).chunk_count());
  uint64_t connections = 0, asked = 0, hedged = 0, last_resort = 0;
  std::array<uint64_t, kTakeoverReasonCount> takeovers{};
  for (size_t i = 0; i < options_.nodes; ++i) {
    // Who has gone takes none.
    if (!wire_.ports[i]->node.dead())
      connections = std::max<uint64_t>(connections, wire_.ports[i]->connections_max);
    asked = std::max(asked, wire_.ports[i]->asked);
    for (const Counter& hedges : nodes_[i]->telemetry().hedges) hedged += hedges.value();
    last_resort += nodes_[i]->telemetry().last_resort_bytes.value();
    for (size_t r = 0; r < takeovers.size(); ++r) takeovers[r] += nodes_[i]->telemetry().takeovers[r].value();
  }
  const auto wanted = static_cast<double>(std::count(wants_.begin(), wants_.end(), true));
  const Traffic& traffic = wire_.traffic;
  const double payload = size * wanted;
  const auto per_chunk = [&](uint64_t count) { return static_cast<double>(count) / (wanted * chunks); };
  Figures figures = {
      {"makespan_over_bound", open_ == 0 ? Seconds(last_ - began_) / bound_seconds : INFINITY},
      {"origin_over_size", static_cast<double>(registry_.bytes) / size},
      {"connections_max", static_cast<double>(connections)},
      {"control_over_payload", static_cast<double>(traffic.control_bytes) / payload},
      {"requests_per_asker_max", static_cast<double>(asked)},
      {"failed", static_cast<double>(failed_ + open_)},
      {"origin_requests", static_cast<double>(registry_.requests)},
      {"requests_per_chunk", per_chunk(traffic.requests)},
      {"busy_per_chunk", per_chunk(traffic.busy)},
      {"busy_helpers_per_chunk", per_chunk(traffic.busy_helpers)},
      {"busy_alone_per_chunk", per_chunk(traffic.busy_alone)},
      {"absent_per_chunk", per_chunk(traffic.absent)},
      {"passed_on_per_chunk", per_chunk(traffic.passed_on)},
      {"dials_per_chunk", per_chunk(traffic.dials)},
      {"broken_off", static_cast<double>(traffic.broken_off)},
      {"silent_requests", static_cast<double>(traffic.failed)},
      {"sent_over_payload", static_cast<double>(traffic.chunk_bytes) / payload},
      {"hedged", static_cast<double>(hedged)},
      {"takeovers_silent", static_cast<double>(takeovers[0])},
      {"takeovers_stalled", static_cast<double>(takeovers[1])},
      {"takeovers_failed", static_cast<double>(takeovers[2])},
      {"last_resort_over_size", static_cast<double>(last_resort) / size},
  };
  if (which == Case::kOneChunk)
    figures.emplace_back("home_sends", static_cast<double>(wire_.ports[HomeOfFirst()]->sent));
  return figures;
}

}  // namespace sluice::sim
