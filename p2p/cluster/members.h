#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"

namespace sluice::p2p {

// "host:port", where the host is a name, an IPv4 address, or an IPv6 address in brackets.
struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;

  // Errors: InvalidArgument, which quotes the text and says how it is written.
  static absl::StatusOr<HostPort> Parse(std::string_view text);
  std::string ToString() const;

  friend auto operator<=>(const HostPort&, const HostPort&) = default;
};

// Another node, by the address of its peers' listener.
struct Member {
  HostPort address;  // the host is an IP literal
  std::string name;  // "address:port", what scores are made of
  uint64_t score_key = 0;
  bool is_self = false;
};

// Who the members are at one time, this node among them: what homes are computed from, so that nodes with
// equal views agree.
struct MemberView {
  // Two views with the same names have the same id.
  explicit MemberView(std::vector<Member> the_members);

  std::vector<Member> members;  // in the order of their names
  uint64_t id = 0;
};

// The other nodes of the cluster: a static list of host:port. A name that resolves to several addresses is as
// many members; names are resolved again every so often, on a thread of their own. One that can't be
// resolved just now keeps the addresses that it had. This node itself is known by its own address, or, when
// it has met itself, by NoteSelf; the view has it, the list leaves it out.
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
    Duration refresh = std::chrono::seconds(10);
    Resolve resolve = nullptr;                               // getaddrinfo(3) if null
    std::function<void(const std::string&)> warn = nullptr;  // once per change of a name's trouble
    std::function<void(const List&)> on_change = nullptr;    // on the resolving thread, or in Start
  };

  explicit Members(Options options);
  ~Members();  // stops
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  // Takes the literal addresses at once, and the names as they are resolved. Idempotent.
  void Start();
  // Does not wait for a resolver that hangs. Idempotent; no callback comes after it.
  void Stop();

  // In the order of their names. Never null.
  std::shared_ptr<const List> list() const;
  // The same with this node: as it was found, or, if its address is no wildcard, in any case. Never null.
  std::shared_ptr<const MemberView> view() const;
  // That member is this very node.
  void NoteSelf(const std::string& name);

 private:
  struct Shared;
  static void Run(const std::shared_ptr<Shared>& shared);
  static void Update(const std::shared_ptr<Shared>& shared);

  // Also held by a resolving thread that outlives Stop.
  const std::shared_ptr<Shared> shared_;
  std::thread thread_;
};

}  // namespace sluice::p2p
