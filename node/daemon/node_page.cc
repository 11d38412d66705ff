#include "node/daemon/node_page.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "node/daemon/node_page_html.h"
#include "p2p/cluster/host_port.h"
#include "p2p/http/url.h"
#include "p2p/recipe/sha256.h"

namespace sluice {
namespace {

constexpr Duration kFresh = std::chrono::milliseconds(500);
// For the core loop to come to it.
constexpr Duration kLoopPatience = std::chrono::seconds(1);

bool IsLoopback(const std::string& listen) {
  const absl::StatusOr<p2p::HostPort> parsed = p2p::HostPort::Parse(listen);
  return parsed.ok() && p2p::NamesLoopback(parsed->host);
}

// Whether a Host header names this machine by a loopback name. Source: RFC 9110 section 7.2.
bool HostNamesLoopback(std::string_view host) {
  return IsLoopback(std::string(host)) || IsLoopback(absl::StrCat(std::string(host), ":80"));
}

// 'sha256-...' of what stands between two tags of the page. Source: CSP Level 3, section 6.7.2.
std::string HashOf(std::string_view html, std::string_view open, std::string_view close) {
  const size_t begin = html.find(open) + open.size();
  const std::string_view text = html.substr(begin, html.find(close, begin) - begin);
  const Digest digest = p2p::Sha256::Of(text);
  const std::string bytes(reinterpret_cast<const char*>(digest.bytes().data()), Digest::kBytes);
  return absl::StrCat("'sha256-", absl::Base64Escape(bytes), "'");
}

std::string PolicyOf(std::string_view html) {
  return absl::StrCat("default-src 'none'; script-src ", HashOf(html, "<script>", "</script>"),
                      "; style-src ", HashOf(html, "<style>", "</style>"),
                      "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                      "frame-ancestors 'none'");
}

api::HttpResponse Plain(unsigned status, std::string text) {
  api::HttpResponse response;
  response.status = status;
  response.body = std::move(text);
  return response;
}

void AddGuards(api::HttpResponse& response) {
  response.headers.emplace_back("Cache-Control", "no-store");
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  response.headers.emplace_back("Referrer-Policy", "no-referrer");
  response.headers.emplace_back("Cross-Origin-Resource-Policy", "same-origin");
}

}  // namespace

NodePage::NodePage(const Parts& parts, Options options)
    : parts_(parts),
      names_(options.names),
      on_loopback_(IsLoopback(options.listen)),
      policy_(PolicyOf(kNodePageHtml)),
      thread_("page", 1) {
  thread_.Post([this] { Sample(); });
}

void NodePage::AddRoutes(api::HttpRoutes& routes) {
  // A route that ends in a slash is asked for all that begins with it.
  routes["/"] = [this](const api::HttpRequest& request, api::HttpResponder responder) {
    if (request.path != "/")
      return std::move(responder).Answer(Plain(404, "there is nothing at this path\n"));
    api::HttpResponse response;
    response.content_type = "text/html; charset=utf-8";
    response.body = kNodePageHtml;
    response.headers.emplace_back("Content-Security-Policy", policy_);
    AddGuards(response);
    std::move(responder).Answer(std::move(response));
  };
  routes["/node.json"] = [this](const api::HttpRequest& request, api::HttpResponder responder) {
    OnRequest(request, std::move(responder));
  };
}

PageNames NodePage::NamesFor(const api::HttpRequest& request) const {
  switch (names_) {
    case NamesRule::kAlways:
      return PageNames::kShown;
    case NamesRule::kNever:
      return PageNames::kHidden;
    case NamesRule::kLoopback:
      break;
  }
  return on_loopback_ && HostNamesLoopback(request.Header("Host")) ? PageNames::kShown : PageNames::kHidden;
}

void NodePage::OnRequest(const api::HttpRequest& request, api::HttpResponder responder) {
  if (waiting_count_.fetch_add(1) >= kWaitingMax) {
    --waiting_count_;
    return std::move(responder).Answer(Plain(503, "too many look at this node\n"));
  }
  thread_.Post([this, names = NamesFor(request), responder = std::move(responder)]() mutable {
    Want(names, std::move(responder));
  });
}

void NodePage::Sample() {
  SourceRates::Totals totals{};
  for (size_t i = 0; i < totals.size(); ++i) totals[i] = parts_.telemetry.read_bytes[i].value();
  totals[static_cast<size_t>(SourceKind::kLocal)] += parts_.mounter.keeper_counters().hit_bytes;
  const Instant now = parts_.clock.Now();
  rates_.Add(totals, now);
  thread_.PostAt(now + SourceRates::kInterval, [this] { Sample(); });
}

void NodePage::Want(PageNames names, api::HttpResponder responder) {
  const Instant now = parts_.clock.Now();
  const Shown& shown = shown_[static_cast<size_t>(names)];
  if (shown.made && now - *shown.made < kFresh) return Answer({names, std::move(responder)});
  waiting_.emplace_back(names, std::move(responder));
  if (gathering_) return;
  gathering_ = true;
  const uint64_t round = ++round_;
  parts_.cache.Observe([this, round](CacheActivity activity) {
    thread_.Post(
        [this, round, activity = std::move(activity)]() mutable { Gather(round, std::move(activity)); });
  });
  thread_.PostAt(now + kLoopPatience, [this, round] { Gather(round, std::nullopt); });
}

// Once for each round: with what the core loop said, or without it if it is late.
void NodePage::Gather(uint64_t round, std::optional<CacheActivity> activity) {
  if (round != round_ || !gathering_) return;
  gathering_ = false;
  const PageFacts facts = Facts(std::move(activity));
  for (const PageNames names : {PageNames::kHidden, PageNames::kShown}) {
    const bool wanted = std::any_of(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting& waiting) { return waiting.first == names; });
    if (wanted) shown_[static_cast<size_t>(names)] = {PageJson(facts, names), parts_.clock.Now()};
  }
  for (Waiting& waiting : std::exchange(waiting_, {})) Answer(std::move(waiting));
}

void NodePage::Answer(Waiting waiting) {
  api::HttpResponse response;
  response.content_type = "application/json";
  response.body = shown_[static_cast<size_t>(waiting.first)].json;
  AddGuards(response);
  std::move(waiting.second).Answer(std::move(response));
  --waiting_count_;
}

PageFacts NodePage::Facts(std::optional<CacheActivity> activity) {
  PageFacts facts;
  // Neither fails: what they tell is at hand.
  facts.status = parts_.status.GetStatus().value_or(api::NodeStatus());
  facts.peers = parts_.peers.ListPeers().value_or(api::PeersReport());
  facts.rates = rates_.series();
  facts.mounts = Mounts(activity);
  facts.activity = std::move(activity);
  facts.errors = parts_.log.Recent();
  return facts;
}

std::vector<PageMount> NodePage::Mounts(const std::optional<CacheActivity>& activity) {
  std::vector<PageMount> mounts;
  size_t blobs_left = PageFacts::kBlobsMax;
  for (api::MountInfo& info : parts_.mounter.ListMounts().value_or(std::vector<api::MountInfo>())) {
    if (mounts.size() == PageFacts::kMountsMax) break;
    PageMount mount;
    const std::vector<BlobKey> keys = parts_.mounter.BlobsOf(info.mount_point);
    // Another image may have come to be mounted there since: then its blobs are shown the next time.
    const size_t shown = keys.size() == info.blobs.size() ? std::min(keys.size(), blobs_left) : 0;
    for (size_t i = 0; i < shown; ++i) mount.blobs.push_back(Describe(keys[i], info.blobs[i], activity));
    blobs_left -= shown;
    mount.info = std::move(info);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

PageBlob NodePage::Describe(const BlobKey& key, const api::BlobPresence& presence,
                            const std::optional<CacheActivity>& activity) const {
  PageBlob page;
  page.digest = presence.digest;
  page.size_bytes = presence.size_bytes;
  const std::shared_ptr<Blob> blob = parts_.store.Find(key);
  if (!blob) return page;
  page.chunk_bytes = blob->geometry().chunk_size();
  page.present = blob->presence().Snapshot();
  page.under_way = ChunkSet(page.present.chunk_count());
  absl::StatusOr<ChunkSet> verified = parts_.store.ProvenChunks(key);
  page.verified = verified.ok() ? *std::move(verified) : page.under_way;
  // Both were taken a moment apart.
  if (page.verified.chunk_count() != page.present.chunk_count()) page.verified = page.under_way;
  page.verified.IntersectWith(page.present);
  if (!activity) return page;
  const auto chunks = activity->under_way.find(key);
  if (chunks == activity->under_way.end()) return page;
  for (const ChunkIndex index : chunks->second) {
    if (index.value() < page.present.chunk_count() && !page.present.Has(index)) page.under_way.Add(index);
  }
  return page;
}

}  // namespace sluice
