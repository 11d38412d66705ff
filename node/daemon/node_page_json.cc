#include "node/daemon/node_page_json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "node/chunk_source.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

constexpr std::array<const char*, 5> kPeerStates = {"alive", "not asked", "silent", "twin", "unnamed"};

double Seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// Only all is 9, and only none is 0.
char Digit(uint32_t count, uint32_t of) {
  if (count == 0) return '0';
  if (count >= of) return '9';
  return static_cast<char>('1' + uint64_t{count} * 8 / of);
}

Json Blob(const PageBlob& blob, PageNames names) {
  Json json = {{"sizeBytes", blob.size_bytes},
               {"chunkBytes", blob.chunk_bytes},
               {"chunks", blob.present.chunk_count()},
               {"presentChunks", blob.present.Count()},
               {"verifiedChunks", blob.verified.Count()},
               {"underWayChunks", blob.under_way.Count()}};
  if (names == PageNames::kShown) json["digest"] = blob.digest.ToString();
  if (blob.present.chunk_count() == 0) return json;
  PresenceCells cells = CellsOf(blob.present, blob.verified, blob.under_way);
  json["cells"] = {{"present", std::move(cells.present)},
                   {"verified", std::move(cells.verified)},
                   {"underWay", std::move(cells.under_way)}};
  return json;
}

Json Mount(const PageMount& mount, PageNames names) {
  Json json = {{"backend", mount.info.backend}, {"readErrors", mount.info.read_errors}};
  uint64_t size = 0, present = 0;
  for (const api::BlobPresence& blob : mount.info.blobs) {
    size += blob.size_bytes;
    present += blob.present_bytes;
  }
  json["sizeBytes"] = size;
  json["presentBytes"] = present;
  json["blobs"] = Json::array();
  for (const PageBlob& blob : mount.blobs) json["blobs"].push_back(Blob(blob, names));
  json["moreBlobs"] = mount.info.blobs.size() - std::min(mount.info.blobs.size(), mount.blobs.size());
  if (names == PageNames::kHidden) return json;
  json["reference"] = mount.info.reference;
  json["mountPoint"] = mount.info.mount_point;
  json["lastError"] = mount.info.last_error.substr(0, DaemonLog::kRecentBytesMax);
  return json;
}

Json Activity(const CacheActivity& activity, PageNames names) {
  Json json = {{"readsWaiting", activity.reads_waiting}, {"inflightBytes", activity.inflight_bytes}};
  json["classes"] = Json::array();
  for (int i = 0; i < kFetchClassCount; ++i) {
    const CacheActivity::Chunks& chunks = activity.chunks[static_cast<size_t>(i)];
    json["classes"].push_back({{"name", FetchClassName(static_cast<FetchClass>(i))},
                               {"queued", chunks.queued},
                               {"underWay", chunks.under_way},
                               {"paused", chunks.paused}});
  }
  json["reads"] = Json::array();
  for (const CacheActivity::WaitingRead& read : activity.reads) {
    Json& row = json["reads"].emplace_back(Json{{"offset", read.range.offset},
                                                {"length", read.range.length},
                                                {"waitedSeconds", Seconds(read.waited)},
                                                {"leftSeconds", Seconds(read.left)},
                                                {"chunksMissing", read.chunks_missing}});
    if (names == PageNames::kShown) row["blob"] = read.blob.Short();
  }
  return json;
}

Json Peer(const api::PeerInfo& peer) {
  return {{"name", peer.name},
          {"address", peer.addresses.empty() ? std::string() : peer.addresses.front()},
          {"state", kPeerStates[static_cast<size_t>(peer.state)]},
          {"zone", peer.zone},
          {"ageSeconds", Seconds(peer.age)},
          {"requests", peer.requests},
          {"failures", peer.failures},
          {"recentBytes", peer.recent_bytes},
          {"skippedForSeconds", Seconds(peer.skipped_for)},
          {"skipReason", peer.skip_reason.substr(0, DaemonLog::kRecentBytesMax)}};
}

Json Peers(const api::PeersReport& report, PageNames names) {
  Json json = {{"configured", report.cluster.configured},
               {"cutOff", report.cluster.cut_off},
               {"coldStart", report.cluster.cold_start}};
  std::array<uint64_t, kPeerStates.size()> counts{};
  for (const api::PeerInfo& peer : report.peers) ++counts[static_cast<size_t>(peer.state)];
  for (size_t i = 0; i < kPeerStates.size(); ++i) json["states"][kPeerStates[i]] = counts[i];
  json["list"] = Json::array();
  if (names == PageNames::kHidden) return json;
  // Those that something is wrong with first.
  std::vector<const api::PeerInfo*> peers;
  for (const api::PeerInfo& peer : report.peers) peers.push_back(&peer);
  std::stable_partition(peers.begin(), peers.end(), [](const api::PeerInfo* peer) {
    return peer->state != api::PeerState::kAlive || peer->skipped_for > Duration{};
  });
  const size_t shown = std::min(peers.size(), PageFacts::kPeersMax);
  for (size_t i = 0; i < shown; ++i) json["list"].push_back(Peer(*peers[i]));
  json["more"] = peers.size() - shown;
  return json;
}

Json Rates(const SourceRates::Series& series) {
  Json json = {{"intervalSeconds", Seconds(SourceRates::kInterval)}};
  for (int i = 0; i < kSourceKindCount; ++i)
    json[SourceKindName(static_cast<SourceKind>(i))] = series[static_cast<size_t>(i)];
  return json;
}

Json Served(const api::ServedTotals& served) {
  Json json;
  for (size_t i = 0; i < kSourceKindCount; ++i)
    json[SourceKindName(static_cast<SourceKind>(i))] = {{"reads", served.reads[i]},
                                                        {"bytes", served.bytes[i]}};
  return json;
}

Json Errors(const std::vector<DaemonLog::Line>& errors) {
  Json json = Json::array();
  for (auto line = errors.rbegin(); line != errors.rend(); ++line)
    json.push_back({{"timeMs", line->time_ms}, {"level", line->level}, {"text", line->text}});
  return json;
}

}  // namespace

PresenceCells CellsOf(const ChunkSet& present, const ChunkSet& verified, const ChunkSet& under_way) {
  const uint32_t chunks = present.chunk_count();
  const uint32_t per_cell = (chunks + PresenceCells::kCellsMax - 1) / PresenceCells::kCellsMax;
  PresenceCells cells;
  for (uint32_t first = 0; first < chunks; first += per_cell) {
    const ChunkSpan span{ChunkIndex(first), std::min(per_cell, chunks - first)};
    cells.present += Digit(present.CountIn(span), span.count);
    cells.verified += Digit(verified.CountIn(span), span.count);
    cells.under_way += Digit(under_way.CountIn(span), span.count);
  }
  return cells;
}

std::string PageJson(const PageFacts& facts, PageNames names) {
  const api::NodeStatus& status = facts.status;
  Json json = {{"version", status.version},
               {"backend", status.backend},
               {"uptimeSeconds", Seconds(status.uptime)},
               {"namesShown", names == PageNames::kShown},
               {"store",
                {{"sizeBytes", status.store.size_bytes},
                 {"capacityBytes", status.store.capacity_bytes},
                 {"blobs", status.store.blob_count}}},
               {"served", Served(status.served)},
               {"readErrors", status.read_errors},
               {"originBytes", status.origin_bytes},
               {"rates", Rates(facts.rates)},
               {"peers", Peers(facts.peers, names)}};
  json["mounts"] = Json::array();
  for (const PageMount& mount : facts.mounts) json["mounts"].push_back(Mount(mount, names));
  json["moreMounts"] = status.mount_count - std::min<size_t>(status.mount_count, facts.mounts.size());
  json["cache"] = facts.activity ? Activity(*facts.activity, names) : Json();
  json["errorCount"] = facts.errors.size();
  json["errors"] = names == PageNames::kShown ? Errors(facts.errors) : Json::array();
  // Names are bytes, and a page is UTF-8.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sluice
