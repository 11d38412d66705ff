#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "api/http/dial_route.h"
#include "api/http/hint_route.h"
#include "api/http/peer_routes.h"
#include "api/http/profile_route.h"
#include "node/daemon/daemon_node.h"
#include "node/daemon/kubernetes_zone.h"
#include "node/daemon/membership.h"
#include "node/daemon/tls.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/last_resort.h"
#include "p2p/cluster/member_probes.h"
#include "p2p/cluster/pace.h"
#include "p2p/cluster/spreading.h"
#include "p2p/cluster/witness_source.h"
#include "p2p/http/url.h"

namespace sluice {
namespace {

// Each asker of another node's keeps one while it waits.
constexpr uint32_t kPeerConnectionsMax = 2048;
// Of these, requests of fills that are answered at once.
constexpr int kPeerFillsMax = 768;
// Those that it keeps in the clear; by TLS another one costs more than keeping it. (500 nodes that want the
// same blob, simulated: the busiest had 348 connections, with those that it had made itself, and has 190.)
constexpr uint32_t kPeerConnectionsKept = 96;
// A connection without a request for so long makes room where all are taken.
constexpr Duration kPeerIdleYieldsAfter = std::chrono::seconds(1);

double RandomFraction() {
  thread_local absl::BitGen random;
  return absl::Uniform<double>(random, 0, 1);
}

}  // namespace

absl::Status Daemon::Node::OpenIdentity() {
  if (!config_.PeersAreProven()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<tls::IdentityFiles>> files =
      OpenIdentityFiles(config_, {clock_, telemetry_, SecondsSince1970, Warn, Alarm});
  if (!files.ok()) return files.status();
  identity_ = *std::move(files);
  spdlog::info("{}", DescribeIdentity(*identity_->current()->Get()));
  return absl::OkStatus();
}

void Daemon::Node::TendIdentityLater() {
  io_->PostAt(clock_.Now() + kFileCheckInterval, [this] {
    if (identity_->Look() == tls::IdentityFiles::Change::kNew) {
      spdlog::info("{}", DescribeIdentity(*identity_->current()->Get()));
      if (peer_http_) peer_http_->Recheck();
    }
    TendIdentityLater();
  });
}

// What can't be asked for is no reason not to serve: more copies cross between zones then.
void Daemon::Node::FindZone() {
  zone_ = config_.cluster_zone;
  if (config_.cluster_zone_label.empty()) return;
  const absl::StatusOr<KubernetesAccess> access = KubernetesAccess::OfPod();
  const absl::StatusOr<std::string> zone =
      access.ok() ? ZoneOfNode(*access, config_.cluster_name, config_.cluster_zone_label)
                  : absl::StatusOr<std::string>(access.status());
  if (zone.ok()) {
    zone_ = *zone;
    return spdlog::info("this node is in zone {}, as label {} says", zone_, config_.cluster_zone_label);
  }
  spdlog::warn("cluster.zoneLabel: {}; this node has no zone until it starts again",
               std::string(zone.status().message()));
}

absl::Status Daemon::Node::FindMembers() {
  FindZone();
  p2p::Members::Options options;
  if (!config_.cluster_listen.empty()) {
    const absl::StatusOr<p2p::HostPort> self = p2p::HostPort::Parse(config_.cluster_listen);
    if (!self.ok()) return InSetting("cluster.listen", self.status());
    options.self = *self;
  }
  if (config_.cluster_members.empty()) return absl::OkStatus();
  for (const std::string& text : config_.cluster_members) {
    const absl::StatusOr<p2p::HostPort> member = p2p::HostPort::Parse(text);
    if (!member.ok()) return InSetting("cluster.members", member.status());
    options.configured.push_back(*member);
  }
  if (config_.cluster_swarm && !config_.cluster_listen.empty()) MakeSwarm(options.self);
  absl::StatusOr<p2p::MemberRow> row = OwnRow(config_, options.self, zone_);
  if (!row.ok()) return row.status();
  options.row = *std::move(row);
  options.ttl = config_.cluster_member_ttl;
  options.refresh = config_.cluster_refresh;
  options.warn = Warn;
  options.telemetry = &telemetry_;
  options.on_change = [this](const p2p::Members::List& list) {
    spdlog::info("{}", DescribeOthers(list));
    std::vector<std::string> addresses;
    for (const p2p::Member& member : list) {
      // What other zones have comes by one member of this zone, not by all.
      if (member.zone && !zone_.empty() && *member.zone != zone_) continue;
      addresses.push_back(member.address.host);
      for (const p2p::HostPort& more : member.more_addresses) addresses.push_back(more.host);
    }
    if (swarm_) swarm_->SetPeers(addresses);
  };
  members_ = std::make_unique<p2p::Members>(std::move(options));
  p2p::PeerClientOptions client;
  client.user_agent = absl::StrCat("sluice/", kVersion);
  client.node_id = node_id_;
  client.trust = Trust();
  client.zone = zone_;
  members_->Look([&](const p2p::MemberTable& table, Instant) { client.name = table.self().name; });
  if (identity_) {
    client.identity = identity_->current();
    const absl::Status named = CheckOwnName(*client.identity->Get(), client.name);
    if (!named.ok()) return named;
  }
  peer_client_ = std::make_unique<p2p::PeerClient>(telemetry_, std::move(client));
  health_.ProbeBy(std::make_shared<p2p::MemberProbes>(
      p2p::MemberProbes::Parts{clock_, *members_, health_, *peer_client_}));
  const p2p::DocumentAsking::Parts asking{clock_, *io_, *members_, health_, *peer_client_, Warn, OwnRights()};
  peer_documents_ = std::make_unique<p2p::PeerDocumentClient>(asking, telemetry_);
  home_documents_ = std::make_unique<p2p::HomeDocuments>(
      asking, telemetry_, [this] { return exchange_ && exchange_->in_cold_start(); });
  last_resort_queue_ = std::make_shared<p2p::GateQueue>(
      p2p::GateQueue::Parts{clock_, *io_}, std::make_unique<p2p::LastResortGate>(
                                               config_.peers_last_resort_rate,
                                               [this] {
                                                 const auto view = members_->view();
                                                 return view->members.size() + view->unnamed.size();
                                               },
                                               telemetry_));
  exchange_ = std::make_unique<p2p::MemberExchange>(
      p2p::MemberExchange::Parts{clock_, *members_, *peer_client_, Warn}, config_.cluster_refresh,
      [random = std::make_shared<absl::BitGen>()](size_t bound) {
        return absl::Uniform<size_t>(*random, 0, bound);
      });
  dial_back_ = std::make_unique<p2p::DialBack>(p2p::DialBack::Parts{clock_, *members_, *peer_client_});
  members_->Start();
  return absl::OkStatus();
}

p2p::RegistryClient::Done<p2p::AccessToken> Daemon::Node::InTurn(
    p2p::RegistryClient::Done<p2p::AccessToken> done) {
  return [this, done = std::move(done)](absl::StatusOr<p2p::AccessToken> token) mutable {
    if (!absl::IsUnavailable(token.status())) return std::move(done)(std::move(token));
    last_resort_queue_->Await(
        ImageDocuments::kSizeUnknown, clock_.Now() + p2p::HomeDocuments::kTablePatience,
        [done = std::move(done), why = token.status()](const absl::StatusOr<p2p::GateQueue::Turn>&) mutable {
          std::move(done)(why);
        });
  };
}

std::unique_ptr<SourceDirectory> Daemon::Node::SourcesAmongMembers() {
  const auto first_wait = [this] {
    return p2p::FirstWait(members_->view()->members.size(), RandomFraction());
  };
  paced_origin_ = std::make_unique<p2p::GatedSource>(
      *witness_, p2p::GateQueue::Parts{clock_, *io_},
      std::make_unique<p2p::Pace>(p2p::Pace::kWindowFirst, p2p::Pace::kWindowMin, first_wait));
  last_resort_ = std::make_unique<p2p::GatedSource>(*witness_, last_resort_queue_);
  download_ = std::make_unique<p2p::DownloadBudget>(clock_, config_.peers_download_max);
  holders_ = std::make_unique<p2p::Holders>(p2p::Holders::Parts{
      clock_, *io_, *members_, health_, *peer_client_, [this] { return HeldForOthers(*store_, Trust()); },
      RandomFraction,
      [this](const p2p::BlobIdentity& blob) { return PresentForOthers(*store_, Trust(), blob); }});
  member_recipes_ = std::make_shared<MemberRecipes>(
      MemberRecipes::Parts{clock_, *members_, *peer_client_, *store_, *io_, [this](const Blob& blob) {
                             return config_.TakesUnsealedFromMembers() || verifier_->HasBoundRecipe(blob);
                           }});
  return std::make_unique<p2p::ClusterDirectory>(p2p::ClusterDirectory::Parts{
      clock_, *io_, *members_, health_, *peer_client_, *store_,
      [recipes = member_recipes_](const std::shared_ptr<Blob>& blob, const std::string& member,
                                  MemberRecipes::Then then) {
        recipes->Await(blob, member, std::move(then));
      },
      [this] { return exchange_->in_cold_start(); }, RandomFraction, Warn, *download_, *holders_,
      *paced_origin_, *last_resort_, *blame_,
      config_.TakesUnsealedFromMembers() ? p2p::Unsealed::kFromMembers : p2p::Unsealed::kFromRegistry,
      OwnRights(),
      [rights = OwnRights()](const BlobOrigin& repository) {
        return rights && rights->IsPublic(repository);
      }});
}

// Who sends wrong bytes, and what becomes of what has been here before it could be proven.
void Daemon::Node::MakeBlame() {
  blame_ = std::make_unique<p2p::ChunkBlame>(p2p::ChunkBlame::Parts{
      clock_, members_.get(), health_, telemetry_, Warn, Alarm,
      [this](const Digest& blob, const Digest& root) { return resolver_->WhoTellsRoot(blob, root); },
      [this](const Blob& blob) { return verifier_->HasClaim(blob.key()); },
      [this](const Blob& blob) { return verifier_->DropClaim(blob.key()); }});
  witness_ = std::make_unique<p2p::WitnessSource>(*origin_, *blame_);
  blame_at_work_ = blame_.get();  // before the verifier
  verifier_at_work_ = verifier_.get();
  store_->CheckUnproven();
}

// It is had anew at once: who reads it next is not to wait for that.
Task Daemon::Node::OnWrongChunk(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes) {
  Warn(absl::StrCat("chunk ", index.value(), " of blob ", blob.digest().ToString(),
                    " came before its recipe, and is not what it promises: dropped, and fetched anew"));
  if (p2p::ChunkBlame* const blame = blame_at_work_) blame->FoundWrong(blob, index, bytes);
  return [this, key = blob.key(), range = blob.geometry().RangeOf(index)] {
    const std::lock_guard lock(mounter_mutex_);
    if (!cache_at_work_) return;
    cache_at_work_->Read({.blob = key,
                          .range = range,
                          .fetch_class = FetchClass::kBackfill,
                          .deadline = clock_.Now() + config_.fetch_timeout},
                         [](const absl::StatusOr<ReadResult>&) {});
  };
}

void Daemon::Node::MakeSwarm(const p2p::HostPort& self) {
  p2p::SwarmOptions options;
  options.listen_address = self.host;
  options.port = static_cast<uint16_t>(config_.cluster_swarm_port);
  options.torrents_max = config_.swarm_torrents_max;
  std::lock_guard lock(mounter_mutex_);  // the store's callbacks look
  swarm_ = std::make_unique<p2p::Swarm>(
      p2p::Swarm::Parts{clock_, *store_, *store_, *store_, leaves_, telemetry_,
                        [this](const Blob& blob) { return IsPublicSomewhere(blob, *store_); }, Warn},
      std::move(options));
}

// Offers what is here whole, used last first.
absl::Status Daemon::Node::StartSwarm() {
  if (!swarm_) return absl::OkStatus();
  if (const absl::Status started = swarm_->Start(*cache_); !started.ok())
    return InSetting("cluster.swarmPort", started);
  std::vector<index::BlobInfo> blobs = store_->List();
  std::erase_if(blobs, [&](const index::BlobInfo& blob) { return !store_->IsSettled(blob.key); });
  std::sort(blobs.begin(), blobs.end(), [](const index::BlobInfo& a, const index::BlobInfo& b) {
    return a.last_access_ms > b.last_access_ms;
  });
  if (blobs.size() > config_.swarm_torrents_max) blobs.resize(config_.swarm_torrents_max);
  for (const index::BlobInfo& info : blobs) {
    if (const std::shared_ptr<Blob> blob = store_->Find(info.key)) swarm_->Seed(blob);
  }
  spdlog::info("the swarm is on port {}", config_.cluster_swarm_port);
  return absl::OkStatus();
}

void Daemon::Node::MakeHome() {
  zones_ = std::make_shared<p2p::MemberZones>(clock_, *members_);
  p2p::SpreadingLimits limits{.fanout = config_.peers_fanout, .same_helpers = identity_ != nullptr};
  const auto find = [zones = zones_](const std::string& member) { return zones->Find(member); };
  const auto spreader = std::make_shared<p2p::Spreader>(clock_, find, limits, zone_);
  limits.helps_across = false;
  whole_places_ =
      std::make_shared<SpreadPlaces>(std::make_shared<p2p::Spreader>(clock_, find, limits, zone_));
  std::string name;
  members_->Look([&](const p2p::MemberTable& table, Instant) { name = table.self().name; });
  HomeBlobs::Parts parts{
      clock_,
      *io_,
      *store_,
      *cache_,
      *allowed_,
      spreader,
      [this](const std::string& registry) { return registry_ && registry_->AsksForPatience(registry); },
      std::move(name),
      Trust(),
      blame_.get(),
      [recipes = member_recipes_](const std::shared_ptr<Blob>& blob, const std::string& asker,
                                  MemberRecipes::Then then) {
        return recipes->Await(blob, asker, std::move(then));
      },
      nullptr,
      flows_};
  if (imported_rights_) {
    parts.know_imported = [rights = imported_rights_.get()](const Digest& digest, const BlobOrigin& origin,
                                                            uint64_t size, Task then) {
      return rights->Know(digest, origin, size, std::move(then));
    };
  }
  given_blobs_ = std::make_shared<HomeBlobs>(std::move(parts));
  given_blobs_->WatchFlows();
}

absl::Status Daemon::Node::ServePeers() {
  if (config_.cluster_listen.empty()) return absl::OkStatus();
  std::optional<NodePeerDocuments::Home> home;
  if (home_documents_)
    home.emplace(NodePeerDocuments::Home{*registry_documents_, *allowed_, *io_, TagsOf(config_)});
  given_documents_ = std::make_unique<NodePeerDocuments>(*store_, manifests_, home, Trust());
  api::HttpRoutes routes;
  if (exchange_) member_answers_ = std::make_unique<ExchangeAnswers>(*exchange_);
  if (holders_) holder_answers_ = std::make_unique<KnownHolders>(*holders_);
  if (members_) MakeHome();
  api::AddPeerRoutes(
      routes, {*store_, *store_, *store_, *given_documents_, *io_, telemetry_, clock_, member_answers_.get(),
               holder_answers_.get(), given_blobs_.get(), node_id_, Trust(), kPeerFillsMax, whole_places_});
  api::AddProfileRoutes(routes, *profiles_, node_id_);
  if (members_) {
    inbox_ = std::make_unique<HintInbox>(*members_, *prefetcher_, WireOfPeers());
    api::AddHintRoute(routes, *inbox_, node_id_);
  }
  if (dial_back_) {
    dial_answers_ = std::make_unique<NodeDials>(*dial_back_);
    api::AddDialRoute(routes, *dial_answers_, node_id_);
  }
  api::HttpLimits limits;
  limits.connections_max = kPeerConnectionsMax;
  if (!identity_) limits.connections_kept_max = kPeerConnectionsKept;
  api::HttpTls tls;
  if (identity_) tls = {identity_->current(), &telemetry_, Warn};
  limits.idle_yields_after = kPeerIdleYieldsAfter;
  limits.file_bytes_per_s = config_.peers_upload_max;
  peer_http_ = std::make_unique<api::HttpServer>(std::move(routes), limits, std::move(tls));
  const absl::Status status = peer_http_->Start(config_.cluster_listen);
  if (!status.ok()) return InSetting("cluster.listen", status);
  spdlog::info("other nodes get what is here on port {}{}", peer_http_->port(), identity_ ? " by TLS" : "");
  if (!identity_ && !p2p::NamesLoopback(p2p::HostPort::Parse(config_.cluster_listen)->host)) {
    spdlog::warn(
        "cluster.listen {} is reached from beyond this machine without TLS: whoever can connect gets the "
        "public blobs that are here, and others through this node; keep the port to the cluster's network",
        config_.cluster_listen);
  }
  return absl::OkStatus();
}

}  // namespace sluice
