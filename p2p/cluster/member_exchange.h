#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "node/executor.h"
#include "p2p/cluster/member_codec.h"
#include "p2p/cluster/member_rounds.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"

namespace sluice::p2p {

// Pulls what other nodes know of members, and tells them what this one knows. Whoever asks says who it is;
// its addresses are dialled before it is believed, one after the other until it answers.
//
// Thread-safe.
class MemberExchange {
 public:
  static constexpr Duration kTimeout = std::chrono::seconds(2);  // of one question
  static constexpr size_t kDialsWaitingMax = 256;  // askers not dialled yet; beyond, one asks again later
  static constexpr size_t kDialsAtOnceMax = 20;
  static constexpr Duration kBetweenDials = std::chrono::seconds(1);

  struct Parts {
    const Clock& clock;
    Members& members;
    PeerClient& client;
    std::function<void(const std::string&)> warn;
  };
  // The parts outlive this.
  MemberExchange(Parts parts, Duration refresh, MemberRounds::Random random);
  // Stops.
  ~MemberExchange();

  void Start();  // idempotent
  // Waits for what is under way: at most kTimeout. Idempotent.
  void Stop();

  // The answer to a GET of kMembersPath: the parameters, and the header kMemberHeader; each may be empty or
  // malformed, and then all is told and nobody learnt of. Does not block. Errors: PermissionDenied (the row
  // is of another than who asks).
  absl::StatusOr<std::string> Answer(std::string_view since, std::string_view old, std::string_view asker,
                                     const ProvenNames& proven = {});

  // Whether who the members are is still being learnt for the first time.
  bool in_cold_start() const { return cold_; }

 private:
  struct Asked {
    MemberRounds::Target target;
    absl::StatusOr<PeerClient::Answer> answer;
  };
  void Run();
  MemberRounds::Result Round(const std::vector<MemberRounds::Target>& targets);
  std::vector<Asked> AskAll(const std::vector<MemberRounds::Target>& targets);
  // Whether every address that is known, and there are some, has refused kRefusalsMin times in a row.
  bool NobodyIsThere() const;
  // Whether it brought news.
  bool Take(const Asked& asked);
  void DialAskers();
  void DialElsewhere(std::vector<MemberRow> dialled);
  static bool IsNew(const MemberTable& table, const MemberRow& row);
  void Tell(MemberTable::Merge merge, const MemberRow& row, const HostPort& at);
  void TellOfImpostor(const MemberRow& row, const HostPort& at);

  const Parts parts_;
  const std::string own_row_;
  MemberRounds rounds_;  // of the thread alone, as is what was told
  std::map<std::string, uint64_t> told_;
  std::map<std::string, int> refusals_;  // in a row, of addresses in the cold start
  Instant next_dials_{};
  std::atomic<bool> cold_{true};

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  bool started_ = false;
  bool stopping_ = false;
  std::deque<MemberRow> askers_;
  std::thread thread_;
};

}  // namespace sluice::p2p
