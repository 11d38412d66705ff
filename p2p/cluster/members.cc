#include "p2p/cluster/members.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/cluster/resolver.h"

namespace sluice::p2p {
namespace {

std::string TextOf(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, address, sizeof v4);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
  } else if (address->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, address, sizeof v6);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  }
  return text;
}

// Also what Stop leaves behind at most.
constexpr Duration kLookupMax = std::chrono::seconds(10);

absl::StatusOr<std::vector<std::string>> Lookup(const std::string& host) {
  return ResolveHost(host, kLookupMax);
}

Instant SteadyNow() {
  return std::chrono::steady_clock::now();
}

std::set<std::string> OwnAddresses() {
  std::set<std::string> addresses;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return addresses;
  for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
    if (!entry->ifa_addr) continue;
    const std::string text = TextOf(entry->ifa_addr);
    if (!text.empty()) addresses.insert(text);
  }
  freeifaddrs(list);
  return addresses;
}

}  // namespace

namespace {

Member MemberOf(const std::string& name, const std::vector<HostPort>& addresses) {
  Member member{addresses.front(), name, ScoreKeyOf(name), false, addresses};
  member.more_addresses.erase(member.more_addresses.begin());
  return member;
}

void SortByName(std::vector<Member>& members) {
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.name < b.name; });
}

bool IsSame(const Member& a, const Member& b) {
  return a.name == b.name && a.address == b.address && a.more_addresses == b.more_addresses &&
         a.zone == b.zone;
}

void CountStates(const MemberTable& table, size_t unnamed, Instant now, Telemetry& telemetry) {
  telemetry.cut_off.Set(table.IsCutOff(now) ? 1 : 0);
  std::array<int64_t, kMemberStateCount> counts{};
  for (const auto& [name, entry] : table.others()) {
    const MemberState state = entry.contact == MemberTable::Contact::kAnswered ? MemberState::kAlive
                              : entry.contact == MemberTable::Contact::kSilent ? MemberState::kSilent
                                                                               : MemberState::kNotAsked;
    ++counts[static_cast<size_t>(state)];
  }
  counts[static_cast<size_t>(MemberState::kUnnamed)] = static_cast<int64_t>(unnamed);
  for (size_t i = 0; i < counts.size(); ++i) telemetry.members[i].Set(counts[i]);
}

MemberRow RowOf(const MemberRow& row, const HostPort& self) {
  MemberRow own = row;
  if (own.name.empty()) own.name = self.port == 0 ? "unnamed" : self.ToString();
  own.protocol = kProtocolMajor;
  return own;
}

}  // namespace

MemberView::MemberView(std::vector<Member> the_members, std::vector<Member> the_unnamed)
    : members(std::move(the_members)), unnamed(std::move(the_unnamed)) {
  SortByName(members);
  const auto found =
      std::find_if(members.begin(), members.end(), [](const Member& each) { return each.is_self; });
  if (found != members.end()) self = static_cast<MemberIndex>(found - members.begin());
  std::string names;
  for (const Member& member : members) {
    absl::StrAppend(&names, member.name, "\n");
    // No name has a space.
    if (member.zone && !member.zone->empty()) absl::StrAppend(&names, " ", *member.zone, "\n");
  }
  id = ScoreKeyOf(names);
}

struct Members::Shared {
  explicit Shared(Options the_options)
      : options(std::move(the_options)), table(RowOf(options.row, options.self), options.ttl) {
    if (!options.resolve) options.resolve = Lookup;
    if (!options.now) options.now = SteadyNow;
  }

  bool IsSelf(const HostPort& address, const std::set<std::string>& own) const {
    if (address.port != options.self.port) return false;
    return IsWildcard(options.self.host) ? own.contains(address.host)
                                         : address.host == CanonicalHost(options.self.host);
  }

  Options options;

  std::mutex mutex;
  std::condition_variable wake;
  // Guarded by mutex.
  bool started = false;
  bool stopping = false;
  std::map<std::string, std::vector<std::string>> addresses;  // as a name was resolved last
  std::map<std::string, std::string> troubles;                // told already
  MemberTable table;
  std::shared_ptr<const List> list = std::make_shared<const List>();
  std::shared_ptr<const MemberView> view = std::make_shared<const MemberView>(List());

  // Held while on_change runs, so that none comes after Stop and they come in order.
  std::mutex change_mutex;
};

Members::Members(Options options) : shared_(std::make_shared<Shared>(std::move(options))) {}

Members::~Members() {
  Stop();
}

void Members::Start() {
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->started) return;
    shared_->started = true;
  }
  Update(shared_, {});
  thread_ = std::thread([shared = shared_] { Run(shared); });
}

void Members::Stop() {
  {
    const std::lock_guard change(shared_->change_mutex);
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->wake.notify_all();
  // A lookup may be under way; what it finds is thrown away.
  if (thread_.joinable()) thread_.detach();
}

std::shared_ptr<const Members::List> Members::list() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->list;
}

std::shared_ptr<const MemberView> Members::view() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->view;
}

void Members::Look(const std::function<void(const MemberTable&, Instant now)>& use) const {
  const std::lock_guard lock(shared_->mutex);
  use(shared_->table, shared_->options.now());
}

void Members::Change(const std::function<void(MemberTable&, Instant now)>& use) {
  {
    const std::lock_guard lock(shared_->mutex);
    use(shared_->table, shared_->options.now());
  }
  Publish(shared_);
}

void Members::NoteSelf(const std::string& name) {
  const absl::StatusOr<HostPort> address = HostPort::Parse(name);
  if (!address.ok()) return;
  Change([&](MemberTable& table, Instant) { table.NoteSelf(*address); });
}

void Members::Run(const std::shared_ptr<Shared>& shared) {
  for (;;) {
    std::set<std::string> names;
    for (const HostPort& configured : shared->options.configured) {
      if (!IsIpLiteral(configured.host)) names.insert(configured.host);
    }
    std::set<std::string> resolved_now;
    for (const std::string& name : names) {
      absl::StatusOr<std::vector<std::string>> found = shared->options.resolve(name);
      if (found.ok() && found->empty()) found = absl::NotFoundError("it has no address");
      const std::lock_guard lock(shared->mutex);
      if (shared->stopping) return;
      const std::string trouble(found.status().message());
      if (found.ok()) {
        for (std::string& address : *found) address = CanonicalHost(address);
        shared->addresses[name] = *std::move(found);
        resolved_now.insert(name);
      }
      if (shared->troubles[name] != trouble && !trouble.empty() && shared->options.warn) {
        shared->options.warn(
            absl::StrCat("member ", name, " can't be resolved, its addresses stay as they were: ", trouble));
      }
      shared->troubles[name] = trouble;
    }
    Update(shared, resolved_now);
    std::unique_lock lock(shared->mutex);
    if (shared->wake.wait_for(lock, shared->options.refresh, [&] { return shared->stopping; })) return;
  }
}

void Members::Update(const std::shared_ptr<Shared>& shared, const std::set<std::string>& resolved_now) {
  const std::set<std::string> own = OwnAddresses();
  {
    const std::lock_guard lock(shared->mutex);
    const Instant now = shared->options.now();
    std::set<HostPort> listed, resolved, now_resolved;
    for (const HostPort& configured : shared->options.configured) {
      if (IsIpLiteral(configured.host)) {
        listed.insert({CanonicalHost(configured.host), configured.port});
        continue;
      }
      for (const std::string& address : shared->addresses[configured.host]) {
        if (resolved.size() == 2 * kMembersMax) break;
        resolved.insert({address, configured.port});
        if (resolved_now.contains(configured.host)) now_resolved.insert({address, configured.port});
      }
    }
    for (const auto* addresses : {&listed, &resolved}) {
      for (const HostPort& address : *addresses) {
        if (shared->IsSelf(address, own)) shared->table.NoteSelf(address);
      }
    }
    shared->table.SetAddresses(std::move(listed), std::move(resolved), now_resolved, now);
    shared->table.Expire(now);
  }
  Publish(shared);
}

void Members::Publish(const std::shared_ptr<Shared>& shared) {
  const std::lock_guard change(shared->change_mutex);
  std::shared_ptr<const List> fresh;
  {
    const std::lock_guard lock(shared->mutex);
    if (shared->stopping) return;
    List named, unnamed;
    for (const auto& [name, entry] : shared->table.others()) {
      named.push_back(MemberOf(name, entry.row.addresses));
      named.back().zone = entry.row.zone;
    }
    for (const HostPort& address : shared->table.Unnamed()) {
      if (named.size() + unnamed.size() == kMembersMax) break;
      unnamed.push_back(MemberOf(address.ToString(), {address}));
    }
    const Instant now = shared->options.now();
    if (shared->options.telemetry)
      CountStates(shared->table, unnamed.size(), now, *shared->options.telemetry);
    List list = named;
    list.insert(list.end(), unnamed.begin(), unnamed.end());
    SortByName(list);
    const bool same =
        std::equal(list.begin(), list.end(), shared->list->begin(), shared->list->end(), IsSame);
    const std::string& name = shared->table.self().name;
    if (const MemberTable::Entry* const twin = shared->table.ServingTwin(now)) {
      named.push_back(MemberOf(name, twin->row.addresses));
      named.back().zone = twin->row.zone;
    } else if (shared->options.self.port != 0) {
      named.push_back({shared->options.self, name, ScoreKeyOf(name), true, {}, shared->table.self().zone});
    }
    auto view = std::make_shared<MemberView>(std::move(named), std::move(unnamed));
    view->since = view->id == shared->view->id ? shared->view->since : now;
    shared->view = std::move(view);
    if (same) return;
    fresh = shared->list = std::make_shared<const List>(std::move(list));
  }
  if (shared->options.on_change) shared->options.on_change(*fresh);
}

}  // namespace sluice::p2p
