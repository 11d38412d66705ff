#include "node/daemon/peer_admin.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/random/random.h"
#include "p2p/cluster/assignment.h"

namespace sluice {
namespace {

// Divided evenly enough to show a share of a thousandth, and 10 ms of work for 1,000 members.
constexpr uint64_t kReferenceStripes = 1024;
constexpr Duration kDialBackMax = std::chrono::seconds(10);

std::map<std::string, double> HomeShares(const p2p::MemberView& view) {
  std::map<std::string, double> shares;
  if (view.members.empty()) return shares;
  std::vector<uint64_t> keys;
  for (const p2p::Member& member : view.members) keys.push_back(member.score_key);
  // Any blob is as good as another.
  for (const p2p::MemberIndex home : p2p::AssignHomes(
           p2p::ScoreKeyOf(Digest(std::array<uint8_t, Digest::kBytes>{})), kReferenceStripes, keys))
    shares[view.members[home].name] += 1.0 / kReferenceStripes;
  return shares;
}

std::vector<std::string> Texts(const std::vector<p2p::HostPort>& addresses) {
  std::vector<std::string> texts;
  for (const p2p::HostPort& address : addresses) texts.push_back(address.ToString());
  return texts;
}

api::PeerInfo Describe(const p2p::MemberRow& row) {
  api::PeerInfo peer;
  peer.name = row.name;
  peer.addresses = Texts(row.addresses);
  peer.zone = row.zone;
  peer.protocol = row.protocol;
  return peer;
}

api::PeerState StateOf(p2p::MemberTable::Contact contact) {
  switch (contact) {
    case p2p::MemberTable::Contact::kNone:
      return api::PeerState::kNotAsked;
    case p2p::MemberTable::Contact::kAnswered:
      return api::PeerState::kAlive;
    case p2p::MemberTable::Contact::kSilent:
      return api::PeerState::kSilent;
  }
  return api::PeerState::kNotAsked;
}

api::DialOutcome OutcomeOf(p2p::DialBack::Outcome outcome) {
  switch (outcome) {
    case p2p::DialBack::Outcome::kReached:
      return api::DialOutcome::kReached;
    case p2p::DialBack::Outcome::kNotReached:
      return api::DialOutcome::kNotReached;
    case p2p::DialBack::Outcome::kNotTried:
      return api::DialOutcome::kNotTried;
  }
  return api::DialOutcome::kNotTried;
}

void AddRecord(const p2p::MemberHealth::Record& record, api::PeerInfo& peer) {
  peer.skipped_for = record.skipped_for;
  peer.skip_reason = record.skip_reason;
  peer.requests = record.requests;
  peer.failures = record.failures;
  peer.outrun = record.outrun;
  peer.recent_bytes = record.recent_bytes;
  peer.wrong_answers = record.wrong_answers;
  peer.blame = record.blame;
  peer.blame_age = record.blame_age;
}

std::vector<api::PeerInfo> PeersOf(const p2p::MemberTable& table, Instant now) {
  std::vector<api::PeerInfo> peers;
  for (const auto& [name, entry] : table.others()) {
    api::PeerInfo& peer = peers.emplace_back(Describe(entry.row));
    peer.state = StateOf(entry.contact);
    peer.age = now - entry.heard;
  }
  std::set<p2p::HostPort> of_twins;
  for (const auto& [name, entry] : table.twins()) {
    api::PeerInfo& peer = peers.emplace_back(Describe(entry.row));
    peer.state = api::PeerState::kTwin;
    peer.age = now - entry.heard;
    of_twins.insert(entry.row.addresses.begin(), entry.row.addresses.end());
  }
  std::stable_sort(peers.begin(), peers.end(),
                   [](const api::PeerInfo& a, const api::PeerInfo& b) { return a.name < b.name; });
  for (const p2p::HostPort& address : table.Unnamed()) {
    if (of_twins.contains(address)) continue;
    api::PeerInfo& peer = peers.emplace_back();
    peer.addresses = {address.ToString()};
    peer.state = api::PeerState::kUnnamed;
  }
  return peers;
}

}  // namespace

api::ClusterStatus PeerAdmin::Status() const {
  api::ClusterStatus status;
  if (!parts_.members) return status;
  status.configured = true;
  status.cold_start = parts_.exchange && parts_.exchange->in_cold_start();
  parts_.members->Look(
      [&](const p2p::MemberTable& table, Instant now) { status.cut_off = table.IsCutOff(now); });
  return status;
}

absl::StatusOr<api::PeersReport> PeerAdmin::ListPeers() {
  api::PeersReport report;
  report.cluster = Status();
  if (!parts_.members) return report;
  const std::map<std::string, double> shares = HomeShares(*parts_.members->view());
  const auto share_of = [&](const std::string& name) {
    const auto share = shares.find(name);
    return share == shares.end() ? 0.0 : share->second;
  };
  Instant asked_at;
  parts_.members->Look([&](const p2p::MemberTable& table, Instant now) {
    asked_at = now;
    report.self = Describe(table.self());
    report.peers = PeersOf(table, now);
  });
  report.self.state = api::PeerState::kAlive;
  report.self.homes_share = share_of(report.self.name);
  for (api::PeerInfo& peer : report.peers) {
    // What is known of a name is of who serves under it.
    if (peer.state == api::PeerState::kTwin) continue;
    const bool unnamed = peer.state == api::PeerState::kUnnamed;
    if (!unnamed) peer.homes_share = share_of(peer.name);
    AddRecord(parts_.health.RecordOf(unnamed ? peer.addresses.front() : peer.name, asked_at), peer);
  }
  return report;
}

absl::StatusOr<std::vector<api::DialFinding>> PeerAdmin::DialBack(Instant deadline) {
  if (!parts_.dial_back)
    return absl::FailedPreconditionError(
        "this node was told of no other nodes; name them in cluster.members");
  absl::BitGen random;
  std::vector<api::DialFinding> findings;
  for (const p2p::DialBack::Finding& finding :
       parts_.dial_back->Check([&](size_t bound) { return absl::Uniform<size_t>(random, 0, bound); },
                               std::min(deadline, parts_.clock.Now() + kDialBackMax))) {
    findings.push_back({finding.address.ToString(), finding.member, OutcomeOf(finding.outcome), finding.why});
  }
  return findings;
}

}  // namespace sluice
