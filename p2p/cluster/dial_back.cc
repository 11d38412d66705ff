#include "p2p/cluster/dial_back.h"

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/http/text.h"
#include "p2p/http/url.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kAnswerBytesMax = 1024;
constexpr Duration kAskTimeout = std::chrono::seconds(3);

bool IsLoopback(const HostPort& address) {
  return NamesLoopback(address.host);
}

bool IsItself(const absl::StatusOr<PeerClient::Answer>& answer, const MemberRow& row) {
  if (!answer.ok()) return false;
  const absl::StatusOr<MembersAnswer> members = DecodeMembers(answer->body);
  return members.ok() && members->self.name == row.name && members->self.start == row.start;
}

std::vector<HostPort> OwnAddresses(const MemberTable& table) {
  if (!table.self().addresses.empty()) return table.self().addresses;
  const std::set<HostPort>& met = table.self_addresses();
  return {met.begin(), met.end()};
}

// Those that answered last come first.
std::vector<Member> InRandomOrder(const MemberTable& table, const DialBack::Random& random) {
  std::vector<Member> members;
  size_t alive = 0;
  for (const auto& [name, entry] : table.others()) {
    members.push_back({entry.row.addresses.front(), name, 0, false, {}});
    if (entry.contact == MemberTable::Contact::kAnswered) std::swap(members[alive++], members.back());
  }
  const auto shuffle = [&](size_t begin, size_t end) {
    for (size_t left = end - begin; left > 1; --left)
      std::swap(members[begin + left - 1], members[begin + random(left)]);
  };
  shuffle(0, alive);
  shuffle(alive, members.size());
  return members;
}

}  // namespace

void DialBack::Answer(std::string_view asker, const ProvenNames& proven, Done done) {
  const absl::StatusOr<MemberRow> row = DecodeRow(asker);
  if (!row.ok() || row->addresses.size() != 1)
    return std::move(done)(absl::InvalidArgumentError("Sluice-Member is no row with one address"));
  if (!proven.Allow(row->name))
    return std::move(done)(absl::PermissionDeniedError("Sluice-Member is not the name in the certificate"));
  const HostPort& address = row->addresses.front();
  std::string path;
  bool permitted = false;
  parts_.members.Look([&](const MemberTable& table, Instant) {
    path = absl::StrCat(Abs(kMembersPath), "?since=", EncodeHashes(table.Hashes()));
    const std::vector<HostPort> own = OwnAddresses(table);
    permitted = !IsLoopback(address) || std::any_of(own.begin(), own.end(), IsLoopback);
  });
  if (!permitted) return std::move(done)(absl::InvalidArgumentError("a loopback address is not dialled"));
  {
    const std::lock_guard lock(mutex_);
    const Instant now = parts_.clock.Now();
    if (dialling_ || now < next_ - (kBurst - 1) * kBetweenDials)
      return std::move(done)(absl::ResourceExhaustedError("another address is dialled just now"));
    dialling_ = true;
    next_ = std::max(next_, now) + kBetweenDials;
  }
  parts_.client.Ask(
      {address, row->name, 0, false, {}}, {path, kMembersBytesMax, kDialTimeout, {}},
      [this, row = *row, done = std::move(done)](absl::StatusOr<PeerClient::Answer> answer) mutable {
        {
          const std::lock_guard lock(mutex_);
          dialling_ = false;
        }
        std::move(done)(nlohmann::json{{"reached", IsItself(answer, row)}}.dump() + "\n");
      });
}

DialBack::Finding DialBack::AskOne(const Member& member, const MemberRow& row, Duration timeout) {
  auto promise = std::make_shared<std::promise<absl::StatusOr<PeerClient::Answer>>>();
  std::future<absl::StatusOr<PeerClient::Answer>> answered = promise->get_future();
  parts_.client.Ask(
      member, {std::string(kDialPath), kAnswerBytesMax, timeout, EncodeRow(row)},
      [promise](absl::StatusOr<PeerClient::Answer> got) { promise->set_value(std::move(got)); });
  const absl::StatusOr<PeerClient::Answer> answer = answered.get();
  Finding finding{row.addresses.front(), member.name, Outcome::kNotTried, {}};
  if (!answer.ok()) {
    finding.why = absl::IsNotFound(answer.status()) ? "it does not know the question"
                                                    : std::string(answer.status().message());
    return finding;
  }
  const nlohmann::json json = nlohmann::json::parse(answer->body, nullptr, false);
  const auto reached = json.is_object() ? json.find("reached") : json.end();
  if (reached == json.end() || !reached->is_boolean()) {
    finding.why = "its answer is none";
    return finding;
  }
  finding.outcome = reached->get<bool>() ? Outcome::kReached : Outcome::kNotReached;
  return finding;
}

std::vector<DialBack::Finding> DialBack::Check(const Random& random, Instant deadline) {
  MemberRow row;
  std::vector<HostPort> addresses;
  std::vector<Member> members;
  parts_.members.Look([&](const MemberTable& table, Instant) {
    row = table.self();
    addresses = OwnAddresses(table);
    members = InRandomOrder(table, random);
  });
  std::vector<Finding> findings;
  size_t next = 0;  // a member that has just dialled is busy for a moment
  for (const HostPort& address : addresses) {
    row.addresses = {address};
    size_t tried = 0;
    for (size_t i = 0; i < std::min(kTriesMax, members.size()) && tried < kMembersAsked; ++i, ++next) {
      const Duration left = deadline - parts_.clock.Now();
      if (left <= Duration(0)) return findings;
      findings.push_back(AskOne(members[next % members.size()], row, std::min(left, kAskTimeout)));
      if (findings.back().outcome != Outcome::kNotTried) ++tried;
    }
  }
  return findings;
}

}  // namespace sluice::p2p
