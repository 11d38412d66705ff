#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "node/executor.h"
#include "p2p/cluster/member_table.h"

namespace sluice::p2p {

// Whom a node asks for their tables, and when. Source: PEERS.md, "Members".
//
// Pure: the clock and the random numbers are handed in. Not thread-safe.
class MemberRounds {
 public:
  static constexpr size_t kNamedAsked = 2;
  static constexpr size_t kUnnamedAsked = 1;
  static constexpr size_t kRumouredAsked = 2;
  static constexpr Duration kColdStartMax = std::chrono::seconds(3);
  static constexpr int kQuietRounds = 2;  // answered and without news: the cold start is over
  // So often in a row an address has refused to be connected to before nobody is taken to be there: others
  // may be starting just now.
  static constexpr int kRefusalsMin = 3;

  // In [0, bound).
  using Random = std::function<size_t(size_t bound)>;

  struct Target {
    HostPort address;
    std::string name;  // empty: not known yet
  };

  // REQUIRES: refresh > 0
  MemberRounds(Duration refresh, Random random, Instant start)
      : refresh_(refresh), random_(std::move(random)), start_(start) {}

  // Two random members, one address whose name is not known, and two where a member is said to be.
  std::vector<Target> Next(const MemberTable& table);

  // Of all targets of a round together; the last: at every address that is known nobody listens.
  enum class Result { kNoAnswer, kNothingNew, kNews, kNobodyThere };
  // A round has ended. Returns the time until the next: nearly none in the cold start, else the refresh
  // within a quarter more or less.
  Duration Ended(Result result, Instant now);

  bool in_cold_start() const { return cold_; }

 private:
  const Duration refresh_;
  const Random random_;
  const Instant start_;
  bool cold_ = true;
  int quiet_ = 0;
};

}  // namespace sluice::p2p
