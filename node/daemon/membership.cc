#include "node/daemon/membership.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "node/daemon/peer_documents.h"
#include "p2p/http/url.h"

namespace sluice {
namespace {

constexpr size_t kNamesToldMax = 10;

absl::Status InSetting(const char* key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key, ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<p2p::MemberRow> OwnRow(const Config& config, const p2p::HostPort& listen,
                                      const std::string& zone) {
  p2p::MemberRow row;
  for (const std::string& text : config.cluster_advertise) {
    absl::StatusOr<p2p::HostPort> address = p2p::HostPort{text, listen.port};
    if (!p2p::IsIpLiteral(text) || listen.port == 0) address = p2p::HostPort::Parse(text);
    if (!address.ok()) return InSetting("cluster.advertise", address.status());
    address->host = p2p::CanonicalHost(address->host);
    row.addresses.push_back(*std::move(address));
  }
  const bool reached_where_it_listens =
      listen.port != 0 && p2p::IsIpLiteral(listen.host) && !p2p::IsWildcard(listen.host);
  if (row.addresses.empty() && reached_where_it_listens)
    row.addresses.push_back({p2p::CanonicalHost(listen.host), listen.port});
  std::sort(row.addresses.begin(), row.addresses.end());
  row.addresses.erase(std::unique(row.addresses.begin(), row.addresses.end()), row.addresses.end());
  row.name = config.cluster_name;
  if (row.name.empty() && !row.addresses.empty()) row.name = row.addresses.front().ToString();
  if (row.name.empty()) {
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host - 1);
    row.name = absl::StrCat(host, ":", listen.port);
  }
  row.zone = zone;
  // Later starts have larger numbers as long as the clock is not set back.
  row.start = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
  if (const absl::Status valid = row.Validate(); !valid.ok()) return InSetting("cluster.name", valid);
  return row;
}

std::string DescribeOthers(const p2p::Members::List& others) {
  std::string text = absl::StrCat(others.size(), " other members");
  for (size_t i = 0; i < std::min(others.size(), kNamesToldMax); ++i)
    absl::StrAppend(&text, i == 0 ? ": " : ", ", others[i].name);
  if (others.size() > kNamesToldMax) absl::StrAppend(&text, " and ", others.size() - kNamesToldMax, " more");
  return text;
}

std::vector<p2p::HeldBlob> HeldForOthers(const index::DiskStore& store, PeerTrust trust) {
  std::vector<p2p::HeldBlob> held;
  for (const index::BlobInfo& info : store.List()) {
    if (info.refused || !info.root_known || info.present_chunks == 0) continue;
    const std::shared_ptr<Blob> blob = store.Find(info.key);
    if (!blob || (trust != PeerTrust::kProven && !IsPublicSomewhere(*blob, store))) continue;
    const std::optional<p2p::BlobIdentity> identity = p2p::Holders::IdentityOf(*blob);
    if (identity)
      held.push_back({*identity, info.present_chunks == blob->geometry().chunk_count(), info.present_bytes});
  }
  return held;
}

std::optional<ChunkSet> PresentForOthers(const index::DiskStore& store, PeerTrust trust,
                                         const p2p::BlobIdentity& wanted) {
  for (const BlobKey& key : store.KeysOf(wanted.digest)) {
    const std::shared_ptr<Blob> blob = store.Find(key);
    if (!blob || blob->refused() || p2p::Holders::IdentityOf(*blob) != wanted) continue;
    if (trust != PeerTrust::kProven && !IsPublicSomewhere(*blob, store)) continue;
    ChunkSet present = blob->presence().Snapshot();
    if (!present.empty()) return present;
  }
  return std::nullopt;
}

}  // namespace sluice
