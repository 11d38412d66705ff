#include "node/cli/json_report.h"

#include <nlohmann/json.hpp>

#include "absl/time/time.h"
#include "node/cli/table_report.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Text(const Json& json) {
  // A reference or path that is not UTF-8 must not make the answer unreadable.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json Served(const google::protobuf::RepeatedPtrField<v1::SourceTotals>& served) {
  Json json = Json::object();
  for (const char* name : {"local", "peer", "origin"}) json[name] = {{"reads", 0}, {"bytes", 0}};
  for (const v1::SourceTotals& totals : served) {
    const char* name = nullptr;
    switch (totals.source()) {
      case v1::READ_SOURCE_LOCAL:
        name = "local";
        break;
      case v1::READ_SOURCE_PEER:
        name = "peer";
        break;
      case v1::READ_SOURCE_ORIGIN:
        name = "origin";
        break;
      default:
        continue;
    }
    json[name] = {{"reads", totals.reads()}, {"bytes", totals.bytes()}};
  }
  return json;
}

// Null if it is absent.
Json Time(bool has, const google::protobuf::Timestamp& time) {
  if (!has) return nullptr;
  return absl::FormatTime(absl::RFC3339_sec, absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

Json Mount(const v1::Mount& mount) {
  Json blobs = Json::array();
  for (const v1::BlobPresence& blob : mount.blobs()) {
    blobs.push_back({{"digest", blob.digest()},
                     {"size_bytes", blob.size_bytes()},
                     {"present_bytes", blob.present_bytes()}});
  }
  return {{"reference", mount.reference()},
          {"manifest_digest", mount.manifest_digest()},
          {"mount_point", mount.mount_point()},
          {"backend", BackendText(mount.backend())},
          {"blobs", std::move(blobs)},
          {"served", Served(mount.served())},
          {"read_errors", mount.read_errors()},
          {"last_error", mount.last_error()},
          {"last_error_time", Time(mount.has_last_error_time(), mount.last_error_time())}};
}

Json Blob(const v1::Blob& blob) {
  Json origins = Json::array();
  for (const v1::BlobOrigin& origin : blob.origins()) {
    const bool plain = origin.stored_digest().empty();
    origins.push_back({{"registry", origin.registry()},
                       {"repository", origin.repository()},
                       {"stored_digest", plain ? blob.digest() : origin.stored_digest()},
                       {"stored_size_bytes", plain ? blob.size_bytes() : origin.stored_size_bytes()}});
  }
  return {{"digest", blob.digest()},
          {"size_bytes", blob.size_bytes()},
          {"chunk_size_bytes", blob.chunk_size_bytes()},
          {"present_bytes", blob.present_bytes()},
          {"unverified_chunks", blob.unverified_chunks()},
          {"recipe_bound", blob.recipe_bound()},
          {"refused", blob.refused()},
          {"pinned", blob.pinned()},
          {"lease_count", blob.lease_count()},
          {"last_access_time", Time(blob.has_last_access_time(), blob.last_access_time())},
          {"origins", std::move(origins)}};
}

Json Peers(const v1::NodeStatus& status) {
  Json peers = {{"members", status.member_count()},
                {"configured", status.cluster().configured()},
                {"cut_off", status.cluster().cut_off()},
                {"cold_start", status.cluster().cold_start()}};
  for (const v1::LaneTotals& lane : status.lanes()) {
    peers[lane.lane() == v1::LANE_SWARM ? "swarm" : "express"] = {{"received_bytes", lane.received_bytes()},
                                                                  {"sent_bytes", lane.sent_bytes()}};
  }
  return peers;
}

Json Peer(const v1::Peer& peer) {
  Json json = {{"name", peer.name()},
               {"addresses", std::vector<std::string>(peer.addresses().begin(), peer.addresses().end())},
               {"zone", peer.zone()},
               {"state", PeerStateText(peer.state())},
               {"protocol", peer.protocol()},
               {"age_seconds", peer.age().seconds()},
               {"homes_share", peer.homes_share()},
               {"skipped_for_seconds", nullptr},
               {"skip_reason", peer.skip_reason()},
               {"requests", peer.requests()},
               {"failures", peer.failures()},
               {"outrun", peer.outrun()},
               {"recent_bytes", peer.recent_bytes()},
               {"wrong_answers", peer.wrong_answers()},
               {"blame", peer.blame()},
               {"blame_age_seconds", nullptr}};
  if (peer.has_skipped_for()) {
    json["skipped_for_seconds"] =
        static_cast<double>(peer.skipped_for().seconds()) + peer.skipped_for().nanos() / 1e9;
  }
  if (peer.has_blame_age()) json["blame_age_seconds"] = peer.blame_age().seconds();
  return json;
}

}  // namespace

std::string PeersJson(const v1::ListPeersResponse& peers) {
  Json list = Json::array();
  for (const v1::Peer& peer : peers.peers()) list.push_back(Peer(peer));
  return Text({{"cluster",
                {{"configured", peers.cluster().configured()},
                 {"cut_off", peers.cluster().cut_off()},
                 {"cold_start", peers.cluster().cold_start()}}},
               {"self", peers.has_self() ? Peer(peers.self()) : Json(nullptr)},
               {"peers", std::move(list)}});
}

std::string StatusJson(const v1::NodeStatus& status, const std::vector<v1::Mount>& mounts) {
  Json mounts_json = Json::array();
  for (const v1::Mount& mount : mounts) mounts_json.push_back(Mount(mount));
  return Text({{"version", status.version()},
               {"backend", BackendText(status.backend())},
               {"backend_reason", status.backend_reason()},
               {"data_directory", status.data_directory()},
               {"uptime_seconds", status.uptime().seconds()},
               {"log_level", LogLevelText(status.log_level())},
               {"drained", status.drained()},
               {"store",
                {{"capacity_bytes", status.store().capacity_bytes()},
                 {"size_bytes", status.store().size_bytes()},
                 {"blob_count", status.store().blob_count()}}},
               {"mount_count", status.mount_count()},
               {"served", Served(status.served())},
               {"read_errors", status.read_errors()},
               {"origin_bytes", status.origin_bytes()},
               {"hints",
                {{"fetched_bytes", status.hints().fetched_bytes()},
                 {"used_bytes", status.hints().used_bytes()},
                 {"unread_bytes", status.hints().unread_bytes()}}},
               {"peers", Peers(status)},
               {"mounts", std::move(mounts_json)}});
}

std::string MountJson(const v1::Mount& mount) {
  return Text(Mount(mount));
}

std::string LogLevelJson(v1::LogLevel level) {
  return Text({{"log_level", LogLevelText(level)}});
}

std::string DrainJson(bool drained, uint32_t hints_ended) {
  return Text({{"drained", drained}, {"hints_ended", hints_ended}});
}

std::string UnmountJson(const std::string& mount_point) {
  return Text({{"mount_point", mount_point}});
}

std::string BlobListJson(const std::vector<v1::Blob>& blobs) {
  Json list = Json::array();
  for (const v1::Blob& blob : blobs) list.push_back(Blob(blob));
  return Text({{"blobs", std::move(list)}});
}

std::string BlobJson(const v1::Blob& blob) {
  return Text(Blob(blob));
}

std::string VerifyJson(const std::string& digest, const v1::VerifyBlobResponse& report) {
  return Text({{"digest", digest},
               {"checked_bytes", report.checked_bytes()},
               {"bad_chunks", report.bad_chunks()},
               {"unprovable_chunks", report.unprovable_chunks()}});
}

std::string EvictJson(const std::string& digest, const v1::EvictBlobResponse& response) {
  return Text({{"digest", digest}, {"freed_bytes", response.freed_bytes()}});
}

std::string RecipeJson(const std::string& digest, const std::string& file, size_t bytes) {
  return Text({{"digest", digest}, {"file", file}, {"bytes", bytes}});
}

std::string LocalityJson(const std::vector<v1::ImageLocality>& images) {
  Json list = Json::array();
  for (const v1::ImageLocality& image : images) {
    Json nodes = Json::array();
    for (const v1::NodeShare& node : image.nodes())
      nodes.push_back({{"name", node.name()}, {"present_bytes", node.present_bytes()}});
    list.push_back({{"reference", image.reference()},
                    {"error", image.has_error()
                                  ? Json{{"code", image.error().code()}, {"message", image.error().message()}}
                                  : Json(nullptr)},
                    {"manifest_digest", image.manifest_digest()},
                    {"total_bytes", image.total_bytes()},
                    {"present_bytes", image.present_bytes()},
                    {"nodes", std::move(nodes)}});
  }
  return Text({{"images", std::move(list)}});
}

std::string HintListJson(const std::vector<v1::HintStatus>& hints) {
  Json list = Json::array();
  for (const v1::HintStatus& hint : hints) {
    Json json = {{"id", hint.id()},
                 {"reference", hint.reference()},
                 {"manifest_digest", hint.manifest_digest()},
                 {"state", HintStateText(hint.state())},
                 {"error", nullptr},
                 {"total_bytes", hint.total_bytes()},
                 {"present_bytes", hint.present_bytes()},
                 {"profile_starts", hint.has_profile() ? Json(hint.profile().starts()) : Json(nullptr)},
                 {"late", hint.late()},
                 {"fetched_bytes", hint.fetched_bytes()},
                 {"bytes_per_second", hint.bytes_per_second()},
                 {"expected_late", hint.expected_late()},
                 {"sources",
                  {{"origin_bytes", hint.sources().origin_bytes()},
                   {"peer_bytes", hint.sources().peer_bytes()},
                   {"local_bytes", hint.sources().local_bytes()}}},
                 {"used_bytes", hint.used_bytes()},
                 {"unread_bytes", hint.unread_bytes()},
                 {"scheduler", hint.scheduler()}};
    if (hint.has_error()) {
      json["error"] = {{"code", hint.error().code()}, {"message", hint.error().message()}};
    }
    json["targets"] = Json::array();
    for (const v1::TargetStatus& target : hint.targets()) {
      json["targets"].push_back(
          {{"name", target.name()},
           {"state", TargetStateText(target.state())},
           {"error", target.has_error() ? Json(target.error().message()) : Json(nullptr)}});
    }
    list.push_back(std::move(json));
  }
  return Text({{"hints", std::move(list)}});
}

std::string PinJson(const std::string& digest, Pinned pinned) {
  return Text({{"digest", digest}, {"pinned", pinned == Pinned::kYes}});
}

}  // namespace sluice::cli
