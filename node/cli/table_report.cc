#include "node/cli/table_report.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "node/cli/units_text.h"

namespace sluice::cli {
namespace {

v1::SourceTotals ServedFrom(const google::protobuf::RepeatedPtrField<v1::SourceTotals>& served,
                            v1::ReadSource source) {
  for (const v1::SourceTotals& totals : served) {
    if (totals.source() == source) return totals;
  }
  return {};
}

std::string ServedText(const v1::NodeStatus& status, v1::ReadSource source, absl::string_view name) {
  const v1::SourceTotals totals = ServedFrom(status.served(), source);
  return absl::StrCat(name, " ", BytesText(totals.bytes()), " in ", totals.reads(), " reads");
}

// What is wrong with a blob or noteworthy of it, in one cell.
std::string BlobFlags(const v1::Blob& blob) {
  std::vector<std::string> flags;
  if (blob.refused()) flags.push_back("REFUSED");
  if (blob.pinned()) flags.push_back("pinned");
  if (blob.lease_count() > 0) flags.push_back("in use");
  if (!blob.recipe_bound()) flags.push_back("no recipe");
  if (blob.unverified_chunks() > 0) flags.push_back("unverified");
  return flags.empty() ? "-" : absl::StrJoin(flags, ", ");
}

std::string LastAccessText(const v1::Blob& blob) {
  if (!blob.has_last_access_time()) return "never";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixSeconds(blob.last_access_time().seconds()),
                          absl::UTCTimeZone());
}

// What holds for all that is asked of the others; empty if nothing is to be said.
std::string StandingText(const v1::ClusterStatus& cluster) {
  if (cluster.cold_start()) return "cold start: who the members are is still being learnt";
  if (cluster.cut_off()) {
    return "CUT OFF: this node reaches fewer than half of the members, and asks registries within a small "
           "budget only";
  }
  return {};
}

std::string PeersText(const v1::NodeStatus& status) {
  if (status.member_count() == 0) return "no members";
  std::string text = absl::StrCat(status.member_count(), status.member_count() == 1 ? " member" : " members");
  for (const v1::LaneTotals& lane : status.lanes()) {
    absl::StrAppend(&text, "; ", lane.lane() == v1::LANE_SWARM ? "swarm" : "express", ": ",
                    BytesText(lane.received_bytes()), " received, ", BytesText(lane.sent_bytes()), " sent");
  }
  const std::string standing = StandingText(status.cluster());
  return standing.empty() ? text : absl::StrCat(text, "; ", standing);
}

std::string PercentText(double share) {
  return absl::StrFormat("%.1f %%", 100 * share);
}

std::string OrDash(const std::string& text) {
  return text.empty() ? "-" : text;
}

// What is wrong with a peer or noteworthy of it, in one cell.
std::string PeerNotes(const v1::Peer& peer) {
  std::vector<std::string> notes;
  if (peer.has_skipped_for()) {
    // Rounded up: nobody is skipped for 0 s.
    const int64_t seconds = peer.skipped_for().seconds() + (peer.skipped_for().nanos() > 0 ? 1 : 0);
    notes.push_back(absl::StrCat("not asked for ", SecondsText(seconds),
                                 peer.skip_reason().empty() ? "" : ": ", peer.skip_reason()));
  }
  if (peer.state() == v1::PEER_STATE_TWIN)
    notes.push_back("has the name of another node that lives; give each its own cluster.name");
  if (peer.wrong_answers() > 0) {
    notes.push_back(absl::StrCat(peer.wrong_answers(), " wrong answers, the last ",
                                 SecondsText(peer.blame_age().seconds()), " ago: ", peer.blame()));
  }
  return notes.empty() ? "-" : absl::StrJoin(notes, "; ");
}

}  // namespace

std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::string& cell : header) widths.push_back(cell.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& row) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - row[i].size() + 2, ' ');
    }
    text += '\n';
  };
  add_row(header);
  for (const auto& row : rows) add_row(row);
  return text;
}

std::string PeerTable(const v1::ListPeersResponse& peers) {
  if (!peers.cluster().configured()) {
    return "This node was told of no other nodes; name them in cluster.members.\n";
  }
  const v1::Peer& self = peers.self();
  std::string text = absl::StrCat(
      "this node  ", self.name(), " at ",
      self.addresses().empty() ? "the address that others find it by" : absl::StrJoin(self.addresses(), ", "),
      self.zone().empty() ? "" : ", zone ", self.zone(), ", ", PercentText(self.homes_share()),
      " of homes\n");
  if (const std::string standing = StandingText(peers.cluster()); !standing.empty())
    absl::StrAppend(&text, "cluster    ", standing, "\n");
  if (peers.peers().empty()) return absl::StrCat(text, "peers      none yet\n");
  std::vector<std::vector<std::string>> rows;
  for (const v1::Peer& peer : peers.peers()) {
    const bool known = peer.state() != v1::PEER_STATE_UNNAMED;
    rows.push_back({OrDash(peer.name()), PeerStateText(peer.state()), absl::StrJoin(peer.addresses(), ","),
                    OrDash(peer.zone()), known ? absl::StrCat(peer.protocol()) : "-",
                    known ? SecondsText(peer.age().seconds()) : "-", PercentText(peer.homes_share()),
                    BytesText(peer.recent_bytes()), absl::StrCat(peer.requests()),
                    absl::StrCat(peer.failures()), absl::StrCat(peer.outrun()), PeerNotes(peer)});
  }
  return absl::StrCat(text, "\n",
                      FormatTable({"NAME", "STATE", "ADDRESSES", "ZONE", "PROTOCOL", "AGE", "HOMES",
                                   "RECEIVED IN 10 MIN", "REQUESTS", "FAILED", "OUTRUN", "NOTES"},
                                  rows));
}

std::string MountTable(const std::vector<v1::Mount>& mounts) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Mount& mount : mounts) {
    uint64_t size = 0, present = 0;
    for (const v1::BlobPresence& blob : mount.blobs()) {
      size += blob.size_bytes();
      present += blob.present_bytes();
    }
    rows.push_back({OneLine(mount.mount_point()), mount.reference(), BytesText(size),
                    ShareText(present, size),
                    BytesText(ServedFrom(mount.served(), v1::READ_SOURCE_LOCAL).bytes()),
                    BytesText(ServedFrom(mount.served(), v1::READ_SOURCE_PEER).bytes()),
                    BytesText(ServedFrom(mount.served(), v1::READ_SOURCE_ORIGIN).bytes()),
                    absl::StrCat(mount.read_errors())});
  }
  std::string text = FormatTable(
      {"MOUNT POINT", "IMAGE", "SIZE", "PRESENT", "FROM STORE", "FROM PEERS", "FROM ORIGIN", "ERRORS"}, rows);
  for (const v1::Mount& mount : mounts) {
    if (mount.last_error().empty()) continue;
    absl::StrAppend(&text, OneLine(mount.mount_point()), ": last error: ", OneLine(mount.last_error()), "\n");
  }
  return text;
}

std::string StatusTable(const v1::NodeStatus& status, const std::vector<v1::Mount>& mounts) {
  std::string text = absl::StrCat(
      "node     sluice ", status.version(), ", up ", SecondsText(status.uptime().seconds()), "\n",  //
      "backend  ", BackendText(status.backend()), " (", status.backend_reason(), ")\n",             //
      "store    ", BytesText(status.store().size_bytes()), " of ", BytesText(status.store().capacity_bytes()),
      ", ", status.store().blob_count(), " blobs\n",                          //
      "served   ", ServedText(status, v1::READ_SOURCE_LOCAL, "store"), "; ",  //
      ServedText(status, v1::READ_SOURCE_PEER, "peers"), "; ",                //
      ServedText(status, v1::READ_SOURCE_ORIGIN, "origin"), "\n",             //
      "origin   ", BytesText(status.origin_bytes()), " received\n",           //
      "peers    ", PeersText(status), "\n",                                   //
      "errors   ", status.read_errors(), " reads failed\n",                   //
      "hints    ", HintBytesText(status.hints()), "\n");
  if (status.drained()) absl::StrAppend(&text, "drained  takes no hints until `sluice drain --undo`\n");
  if (mounts.empty()) return absl::StrCat(text, "mounts   none\n");
  return absl::StrCat(text, "\n", MountTable(mounts));
}

std::string BlobTable(const std::vector<v1::Blob>& blobs) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Blob& blob : blobs) {
    rows.push_back({blob.digest(), BytesText(blob.size_bytes()),
                    ShareText(blob.present_bytes(), blob.size_bytes()), BlobFlags(blob)});
  }
  return FormatTable({"DIGEST", "SIZE", "PRESENT", "NOTES"}, rows);
}

std::string BlobDetails(const v1::Blob& blob) {
  std::string text =
      absl::StrCat("digest       ", blob.digest(), "\n",                                                 //
                   "size         ", BytesText(blob.size_bytes()), " (", blob.size_bytes(), " bytes)\n",  //
                   "chunk size   ", BytesText(blob.chunk_size_bytes()), "\n",                            //
                   "present      ", ShareText(blob.present_bytes(), blob.size_bytes()), "\n",            //
                   "recipe       ", blob.recipe_bound() ? "bound" : "none", "\n",                        //
                   "unverified   ", blob.unverified_chunks(), " chunks\n",                               //
                   "in use by    ", blob.lease_count(), "\n",                                            //
                   "last access  ", LastAccessText(blob), "\n",                                          //
                   "notes        ", BlobFlags(blob), "\n");
  for (const v1::BlobOrigin& origin : blob.origins()) {
    absl::StrAppend(&text, "origin       ", origin.registry(), "/", origin.repository());
    if (!origin.stored_digest().empty()) {
      absl::StrAppend(&text, ", stored as ", origin.stored_digest(), ", ",
                      BytesText(origin.stored_size_bytes()));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

std::string PeerStateText(v1::PeerState state) {
  const std::string name = v1::PeerState_Name(state);
  const size_t prefix = sizeof("PEER_STATE_") - 1;
  return name.size() <= prefix ? "unknown" : absl::AsciiStrToLower(name.substr(prefix));
}

std::string TargetStateText(v1::TargetState state) {
  const std::string name = v1::TargetState_Name(state);
  const size_t prefix = sizeof("TARGET_STATE_") - 1;
  return name.size() <= prefix ? "unknown" : absl::AsciiStrToLower(name.substr(prefix));
}

std::string HintStateText(v1::HintState state) {
  const std::string name = v1::HintState_Name(state);
  const size_t prefix = sizeof("HINT_STATE_") - 1;
  return name.size() <= prefix ? "unknown" : absl::AsciiStrToLower(name.substr(prefix));
}

std::string BackendText(v1::Backend backend) {
  const std::string name = v1::Backend_Name(backend);
  const size_t prefix = sizeof("BACKEND_") - 1;
  return name.size() <= prefix ? "unknown" : absl::AsciiStrToLower(name.substr(prefix));
}

std::string LogLevelText(v1::LogLevel level) {
  const std::string name = v1::LogLevel_Name(level);
  const size_t prefix = sizeof("LOG_LEVEL_") - 1;
  return name.size() <= prefix ? "unknown" : absl::AsciiStrToLower(name.substr(prefix));
}

std::string HintBytesText(const v1::HintTotals& hints) {
  return absl::StrCat(BytesText(hints.fetched_bytes()), " brought in, ",
                      ShareText(hints.used_bytes(), hints.fetched_bytes()), " used, ",
                      ShareText(hints.unread_bytes(), hints.fetched_bytes()), " unread");
}

std::string HintTable(const std::vector<v1::HintStatus>& hints) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::HintStatus& hint : hints) {
    // Until the image or the blob is known there is nothing to have a share of.
    const bool known = !hint.manifest_digest().empty() || hint.total_bytes() > 0;
    rows.push_back(
        {hint.id(), hint.reference(),
         absl::StrCat(
             HintStateText(hint.state()),
             hint.late()            ? " (late)"
             : hint.expected_late() ? " (will be late)"
                                    : "",
             hint.has_profile() && hint.profile().starts() == 0 ? " (no profile: bootstrap alone)" : ""),
         known ? BytesText(hint.total_bytes()) : "-",
         known ? ShareText(hint.present_bytes(), hint.total_bytes()) : "-",
         hint.bytes_per_second() > 0 ? absl::StrCat(BytesText(hint.bytes_per_second()), "/s") : "-",
         hint.fetched_bytes() > 0 ? ShareText(hint.sources().peer_bytes(), hint.fetched_bytes()) : "-",
         hint.used_bytes() + hint.unread_bytes() > 0 ? ShareText(hint.used_bytes(), hint.fetched_bytes())
                                                     : "-"});
  }
  return FormatTable({"ID", "IMAGE", "STATE", "SIZE", "PRESENT", "RATE", "BY PEERS", "USED"}, rows);
}

std::string LocalityTable(const std::vector<v1::ImageLocality>& images) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::ImageLocality& image : images) {
    if (image.has_error()) continue;
    rows.push_back({image.reference(), "this one", BytesText(image.total_bytes()),
                    ShareText(image.present_bytes(), image.total_bytes())});
    for (const v1::NodeShare& node : image.nodes()) {
      rows.push_back({image.reference(), OneLine(node.name()), BytesText(image.total_bytes()),
                      ShareText(node.present_bytes(), image.total_bytes())});
    }
  }
  return FormatTable({"IMAGE", "NODE", "SIZE", "PRESENT"}, rows);
}

std::string VerifyText(const std::string& digest, const v1::VerifyBlobResponse& report) {
  return absl::StrCat(digest, ": ", BytesText(report.checked_bytes()), " checked, ", report.bad_chunks(),
                      " bad chunks, ", report.unprovable_chunks(), " chunks that nothing can prove yet\n");
}

}  // namespace sluice::cli
