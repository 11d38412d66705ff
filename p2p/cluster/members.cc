#include "p2p/cluster/members.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "p2p/cluster/assignment.h"
#include "p2p/http/content_range.h"
#include "p2p/http/text.h"

namespace sluice::p2p {
namespace {

bool IsLiteral(const std::string& host) {
  in6_addr any;
  return inet_pton(AF_INET, host.c_str(), &any) == 1 || inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

bool IsWildcard(const std::string& host) {
  return host == "0.0.0.0" || host == "::" || host == "*";
}

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

// The form that inet_ntop gives, so that one address has one name.
std::string Canonical(const std::string& literal) {
  char text[INET6_ADDRSTRLEN] = "";
  in6_addr address;
  if (inet_pton(AF_INET, literal.c_str(), &address) == 1)
    return inet_ntop(AF_INET, &address, text, sizeof text);
  if (inet_pton(AF_INET6, literal.c_str(), &address) == 1)
    return inet_ntop(AF_INET6, &address, text, sizeof text);
  return literal;
}

absl::StatusOr<std::vector<std::string>> ResolveByLibrary(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) return absl::UnavailableError(gai_strerror(error));
  std::vector<std::string> addresses;
  for (const addrinfo* entry = found; entry; entry = entry->ai_next) {
    const std::string text = TextOf(entry->ai_addr);
    if (!text.empty()) addresses.push_back(text);
  }
  freeaddrinfo(found);
  return addresses;
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

absl::StatusOr<HostPort> HostPort::Parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  HostPort address;
  if (colon != std::string_view::npos) address.host = text.substr(0, colon);
  const bool brackets = address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']';
  if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
  const bool host_ok = !address.host.empty() && address.host.size() <= 253 &&
                       (brackets ? IsLiteral(address.host) && address.host.find(':') != std::string::npos
                                 : address.host.find_first_of(":/ []@?#") == std::string::npos);
  const std::optional<uint64_t> port = ParseNumber(text.substr(colon + 1));
  if (!host_ok || !port || *port == 0 || *port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), " is no address: write host:port, an IPv6 address in brackets"));
  }
  address.port = static_cast<uint16_t>(*port);
  return address;
}

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrCat(v6 ? "[" : "", host, v6 ? "]:" : ":", port);
}

MemberView::MemberView(std::vector<Member> the_members) : members(std::move(the_members)) {
  std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.name < b.name; });
  std::string names;
  for (const Member& member : members) absl::StrAppend(&names, member.name, "\n");
  id = ScoreKeyOf(names);
}

struct Members::Shared {
  explicit Shared(Options the_options) : options(std::move(the_options)) {
    if (!options.resolve) options.resolve = ResolveByLibrary;
  }

  bool IsSelf(const HostPort& address, const std::set<std::string>& own) const {
    if (address.port != options.self.port) return false;
    return IsWildcard(options.self.host) ? own.contains(address.host)
                                         : address.host == Canonical(options.self.host);
  }

  Options options;

  std::mutex mutex;
  std::condition_variable wake;
  // Guarded by mutex.
  bool started = false;
  bool stopping = false;
  std::map<std::string, std::vector<std::string>> addresses;  // as a name was resolved last
  std::map<std::string, std::string> troubles;                // told already
  std::set<std::string> selves;
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
  Update(shared_);
  thread_ = std::thread([shared = shared_] { Run(shared); });
}

void Members::Stop() {
  {
    const std::lock_guard change(shared_->change_mutex);
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->wake.notify_all();
  // A resolver may hang for minutes; what it finds then is thrown away.
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

void Members::NoteSelf(const std::string& name) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->selves.insert(name).second) return;
  }
  Update(shared_);
}

void Members::Run(const std::shared_ptr<Shared>& shared) {
  for (;;) {
    std::set<std::string> names;
    for (const HostPort& configured : shared->options.configured) {
      if (!IsLiteral(configured.host)) names.insert(configured.host);
    }
    for (const std::string& name : names) {
      absl::StatusOr<std::vector<std::string>> found = shared->options.resolve(name);
      if (found.ok() && found->empty()) found = absl::NotFoundError("it has no address");
      const std::lock_guard lock(shared->mutex);
      if (shared->stopping) return;
      const std::string trouble(found.status().message());
      if (found.ok()) {
        for (std::string& address : *found) address = Canonical(address);
        shared->addresses[name] = *std::move(found);
      }
      if (shared->troubles[name] != trouble && !trouble.empty() && shared->options.warn) {
        shared->options.warn(
            absl::StrCat("member ", name, " can't be resolved, its addresses stay as they were: ", trouble));
      }
      shared->troubles[name] = trouble;
    }
    Update(shared);
    std::unique_lock lock(shared->mutex);
    if (shared->wake.wait_for(lock, shared->options.refresh, [&] { return shared->stopping; })) return;
  }
}

void Members::Update(const std::shared_ptr<Shared>& shared) {
  const std::lock_guard change(shared->change_mutex);
  const std::set<std::string> own = OwnAddresses();
  std::shared_ptr<const List> fresh;
  {
    const std::lock_guard lock(shared->mutex);
    if (shared->stopping) return;
    std::set<HostPort> found;
    for (const HostPort& configured : shared->options.configured) {
      if (IsLiteral(configured.host)) {
        found.insert({Canonical(configured.host), configured.port});
        continue;
      }
      for (const std::string& address : shared->addresses[configured.host])
        found.insert({address, configured.port});
    }
    if (shared->options.self.port != 0 && !IsWildcard(shared->options.self.host))
      found.insert({Canonical(shared->options.self.host), shared->options.self.port});
    List all;
    List others;
    for (const HostPort& address : found) {
      const std::string name = address.ToString();
      const bool is_self = shared->IsSelf(address, own) || shared->selves.contains(name);
      if (!is_self && others.size() == kMembersMax) continue;
      all.push_back({address, name, ScoreKeyOf(name), is_self});
      if (!is_self) others.push_back(all.back());
    }
    auto view = std::make_shared<const MemberView>(std::move(all));
    std::sort(others.begin(), others.end(), [](const Member& a, const Member& b) { return a.name < b.name; });
    shared->view = std::move(view);
    const bool same = std::equal(others.begin(), others.end(), shared->list->begin(), shared->list->end(),
                                 [](const Member& a, const Member& b) { return a.name == b.name; });
    if (same) return;
    fresh = shared->list = std::make_shared<const List>(std::move(others));
  }
  if (shared->options.on_change) shared->options.on_change(*fresh);
}

}  // namespace sluice::p2p
