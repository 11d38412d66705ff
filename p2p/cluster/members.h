#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"
#include "node/telemetry.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/host_port.h"
#include "p2p/cluster/member_table.h"

namespace sluice::p2p {

// A node of the cluster, by the addresses of its peers' listener.
struct Member {
  HostPort address;  // the host is an IP literal
  std::string name;  // its own, what scores are made of; "address:port" until that is known
  uint64_t score_key = 0;
  bool is_self = false;
  std::vector<HostPort> more_addresses;  // beside `address`
  // Where it is; "" where it has none; nothing: it is not known who it is.
  std::optional<std::string> zone = std::nullopt;
};

// Who the members are at one time, this node among them: what homes are computed from, so that nodes with
// equal views agree.
struct MemberView {
  // Two views with the same names in the same zones have the same id, whatever is unnamed.
  explicit MemberView(std::vector<Member> the_members, std::vector<Member> the_unnamed = {});

  std::vector<Member> members;   // in the order of their names
  std::vector<Member> unnamed;   // asked only where members are not enough
  MemberIndex self = kNoMember;  // this node, if it is one of them
  uint64_t id = 0;
  Instant since{};  // when the names became these
};

// The nodes of the cluster: addresses of a static list and of DNS names, which are resolved again every so
// often on a thread of their own, and the table of what is known of the members behind them. A name that
// can't be resolved just now keeps the addresses that it had. This node itself is known by its own address,
// by its name, or, when it has met itself, by NoteSelf; the view has it, the list leaves it out.
//
// Thread-safe.
class Members {
 public:
  using List = std::vector<Member>;
  // IP literals. Errors are told to `warn`.
  using Resolve = std::function<absl::StatusOr<std::vector<std::string>>(const std::string& host)>;

  static constexpr size_t kMembersMax = 10000;

  struct Options {
    std::vector<HostPort> configured;
    // Where this node listens for peers; a wildcard host stands for all of its addresses. Port 0: nowhere.
    HostPort self;
    MemberRow row;  // what it says of itself; without a name the address is one
    Duration refresh = std::chrono::seconds(10);
    Duration ttl = std::chrono::minutes(5);
    Resolve resolve = nullptr;                               // ResolveHost if null
    std::function<Instant()> now = nullptr;                  // the monotonic clock if null
    std::function<void(const std::string&)> warn = nullptr;  // once per change of a name's trouble
    Telemetry* telemetry = nullptr;                          // counts members by state; may be null
    // On the resolving thread, in Start, or where Change is called.
    std::function<void(const List&)> on_change = nullptr;
  };

  explicit Members(Options options);
  ~Members();  // stops
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  // Takes the literal addresses at once, and the names as they are resolved. Idempotent.
  void Start();
  // Does not wait for a lookup. Idempotent; no callback comes after it.
  void Stop();

  // All others, in the order of their names, unnamed addresses among them. Never null.
  std::shared_ptr<const List> list() const;
  // The same with this node, if others can ask it. Never null.
  std::shared_ptr<const MemberView> view() const;
  // Looks at the table, or changes it and what follows from it. `use` must not block, nor call this.
  void Look(const std::function<void(const MemberTable&, Instant now)>& use) const;
  void Change(const std::function<void(MemberTable&, Instant now)>& use);
  // That member is this very node.
  void NoteSelf(const std::string& name);

 private:
  struct Shared;
  static void Run(const std::shared_ptr<Shared>& shared);
  static void Update(const std::shared_ptr<Shared>& shared, const std::set<std::string>& resolved_now);
  static void Publish(const std::shared_ptr<Shared>& shared);

  // Also held by a resolving thread that outlives Stop.
  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace sluice::p2p
