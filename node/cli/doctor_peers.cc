#include "node/cli/doctor_peers.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/cli/admin_client.h"

namespace sluice::cli {
namespace {

constexpr char kReachesOthers[] = "reaches the other nodes";
constexpr char kReachedByOthers[] = "others reach this node";

std::vector<Check> NotTried(absl::string_view why) {
  return {{kReachedByOthers, Check::Result::kUnknown, absl::StrCat("not tried: ", why), {}}};
}

Check ReachesOthers(const v1::ClusterStatus& cluster) {
  if (!cluster.cut_off()) return {kReachesOthers, Check::Result::kHolds, {}, {}};
  return {kReachesOthers, Check::Result::kFails, "fewer than half of them answer",
          "`sluice peers` names those that are silent; let TCP connections through to their addresses"};
}

// What came of one address.
struct Tries {
  std::vector<std::string> reached;
  std::vector<std::string> not_reached;
  std::vector<std::string> not_tried;
};

Check ReachedAt(const std::string& address, const Tries& tries) {
  Check check{absl::StrCat(kReachedByOthers, " at ", address), Check::Result::kUnknown, {}, {}};
  std::vector<std::string> parts;
  const auto add = [&](absl::string_view what, const std::vector<std::string>& members) {
    if (!members.empty()) parts.push_back(absl::StrCat(what, absl::StrJoin(members, ", ")));
  };
  add("reached by ", tries.reached);
  add("not by ", tries.not_reached);
  add("not tried by ", tries.not_tried);
  check.detail = absl::StrJoin(parts, "; ");
  if (!tries.reached.empty()) {
    check.result = Check::Result::kHolds;
  } else if (!tries.not_reached.empty()) {
    check.result = Check::Result::kFails;
    check.remedy =
        "let TCP connections to it through (firewall, network policy), or set cluster.advertise to the "
        "address at which others reach this node";
  }
  return check;
}

std::vector<Check> ReachedChecks(const v1::DialBackResponse& response) {
  std::map<std::string, Tries> by_address;
  for (const v1::Dial& dial : response.dials()) {
    Tries& tries = by_address[dial.address()];
    switch (dial.outcome()) {
      case v1::DIAL_OUTCOME_REACHED:
        tries.reached.push_back(dial.member());
        break;
      case v1::DIAL_OUTCOME_NOT_REACHED:
        tries.not_reached.push_back(dial.member());
        break;
      default:
        tries.not_tried.push_back(absl::StrCat(dial.member(), " (", dial.reason(), ")"));
    }
  }
  std::vector<Check> checks;
  for (const auto& [address, tries] : by_address) checks.push_back(ReachedAt(address, tries));
  return checks;
}

bool KnowsAMember(const v1::ListPeersResponse& peers) {
  for (const v1::Peer& peer : peers.peers()) {
    if (peer.state() != v1::PEER_STATE_UNNAMED && peer.state() != v1::PEER_STATE_TWIN) return true;
  }
  return false;
}

}  // namespace

std::vector<Check> CheckPeers(const GlobalFlags& flags) {
  absl::StatusOr<AdminClient> client = AdminClient::Connect(flags);
  if (!client.ok()) return NotTried(client.status().message());
  const absl::StatusOr<v1::ListPeersResponse> peers = client->ListPeers();
  if (!peers.ok()) return NotTried(peers.status().message());
  if (!peers->cluster().configured()) return NotTried("this node was told of no other nodes");
  std::vector<Check> checks = {ReachesOthers(peers->cluster())};
  std::vector<Check> reached;
  const absl::StatusOr<v1::DialBackResponse> dials = client->DialBack();
  if (!dials.ok()) {
    reached = NotTried(dials.status().message());
  } else if (dials->dials().empty()) {
    reached = KnowsAMember(*peers)
                  ? std::vector<Check>{{kReachedByOthers, Check::Result::kFails,
                                        "this node does not know at which address they would",
                                        "set cluster.listen, and cluster.advertise to that address"}}
                  : NotTried("no other node has answered yet");
  } else {
    reached = ReachedChecks(*dials);
  }
  checks.insert(checks.end(), reached.begin(), reached.end());
  return checks;
}

}  // namespace sluice::cli
