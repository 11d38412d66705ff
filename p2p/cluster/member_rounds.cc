#include "p2p/cluster/member_rounds.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sluice::p2p {
namespace {

constexpr Duration kBetweenColdRounds = std::chrono::milliseconds(150);

}  // namespace

std::vector<MemberRounds::Target> MemberRounds::Next(const MemberTable& table) {
  std::vector<Target> targets;
  const auto& others = table.others();
  std::vector<size_t> chosen;
  while (chosen.size() < std::min(kNamedAsked, others.size())) {
    const size_t at = random_(others.size());
    if (std::find(chosen.begin(), chosen.end(), at) != chosen.end()) continue;
    chosen.push_back(at);
    const auto& [name, entry] = *std::next(others.begin(), static_cast<std::ptrdiff_t>(at));
    targets.push_back({entry.row.addresses[random_(entry.row.addresses.size())], name});
  }
  const auto add_some = [&](std::vector<HostPort> addresses, size_t count_max) {
    for (size_t i = 0; i < count_max && !addresses.empty(); ++i) {
      const size_t at = random_(addresses.size());
      targets.push_back({addresses[at], {}});
      addresses.erase(addresses.begin() + static_cast<std::ptrdiff_t>(at));
    }
  };
  add_some(table.Unnamed(), kUnnamedAsked);
  add_some(table.Rumoured(), kRumouredAsked);
  return targets;
}

Duration MemberRounds::Ended(Result result, Instant now) {
  if (result == Result::kNews) quiet_ = 0;
  if (result == Result::kNothingNew) ++quiet_;
  if (result == Result::kNobodyThere || quiet_ >= kQuietRounds || now - start_ >= kColdStartMax)
    cold_ = false;
  if (cold_) return kBetweenColdRounds / 2 + kBetweenColdRounds * random_(1000) / 1000;
  return refresh_ * 3 / 4 + refresh_ / 2 * random_(1000) / 1000;
}

}  // namespace sluice::p2p
