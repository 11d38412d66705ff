#pragma once

#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "api/grpc_server.h"
#include "api/http/dial_route.h"
#include "api/http/http_server.h"
#include "api/http/metrics.h"
#include "api/http/peer_routes.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/attached_profiles.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/content_import.h"
#include "node/daemon/daemon.h"
#include "node/daemon/hint_journal.h"
#include "node/daemon/hint_login.h"
#include "node/daemon/hint_precision.h"
#include "node/daemon/hint_relay.h"
#include "node/daemon/home_blobs.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_policy.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/imported_rights.h"
#include "node/daemon/locality.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/member_recipes.h"
#include "node/daemon/membership.h"
#include "node/daemon/mirror.h"
#include "node/daemon/mount_table.h"
#include "node/daemon/mounter.h"
#include "node/daemon/node_admin.h"
#include "node/daemon/node_health.h"
#include "node/daemon/node_page.h"
#include "node/daemon/peer_admin.h"
#include "node/daemon/peer_documents.h"
#include "node/daemon/prefetcher.h"
#include "node/daemon/profile_admin.h"
#include "node/daemon/profile_store.h"
#include "node/daemon/pushed_image_hints.h"
#include "node/daemon/quota.h"
#include "node/daemon/registry_documents.h"
#include "node/daemon/spread_places.h"
#include "node/daemon/start_profiles.h"
#include "node/daemon/tls.h"
#include "node/image_counters.h"
#include "ondemand/backend.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/dial_back.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/member_zones.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/cluster/profile_exchange.h"
#include "p2p/cluster/witness_source.h"
#include "p2p/recipe/leaf_cache.h"
#include "p2p/recipe/recipe_verifier.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "p2p/swarm/swarm.h"

// The node behind Daemon, for those of its files that wire it: daemon.cc the host's side, daemon_members.cc
// what has to do with other nodes, daemon_serving.cc what is served.
namespace sluice {

// How long it may go unnoticed that somebody has cut short or removed a blob file, or changed certificates.
inline constexpr Duration kFileCheckInterval = std::chrono::seconds(5);

inline void Warn(const std::string& text) {
  spdlog::warn("{}", text);
}

inline void Alarm(std::string_view text) {
  spdlog::error("ALARM: {}", text);
}

// The error, of this setting of the configuration.
inline absl::Status InSetting(const char* key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key, ": ", std::string(status.message())));
}

inline ImageDocuments::Tags TagsOf(const Config& config) {
  return config.PeersAreBelieved() ? ImageDocuments::Tags::kFromHome : ImageDocuments::Tags::kFromRegistry;
}

// What the registries say of access, for the store; a blob that turns out to be for those alone who show
// credentials leaves the swarm.
class OriginLedger final : public AccessLedger {
 public:
  using Withdraw = std::function<void(const Blob&)>;
  OriginLedger(index::DiskStore& store, Withdraw withdraw) : store_(store), withdraw_(std::move(withdraw)) {}

  void NoteAccess(const BlobKey& key, const BlobOrigin& origin, OriginAccess access) override {
    store_.NoteAccess(key, origin, access);
    if (access != OriginAccess::kCredentials) return;
    const std::shared_ptr<Blob> blob = store_.Find(key);
    if (blob && !IsPublicSomewhere(*blob, store_)) withdraw_(*blob);
  }
  void NoteHearsay(const BlobKey& key, const BlobOrigin& origin, Duration age) override {
    store_.NoteHearsay(key, origin, age);
  }
  Duration PublicAge(const BlobKey& key, const BlobOrigin& origin) const override {
    return store_.PublicAge(key, origin);
  }
  OriginAccess AccessOf(const BlobKey& key, const BlobOrigin& origin) const override {
    return store_.AccessOf(key, origin);
  }

 private:
  index::DiskStore& store_;
  const Withdraw withdraw_;
};

// Of this process, told to nobody but those who talk to it.
std::string RandomNodeId();

// Members stand in the order in which they are made; the destructor stops them from the outside in.
class Daemon::Node {
 public:
  Node(const Config& config, ondemand::DescriptorStore& descriptors, DaemonLog& log)
      : config_(config), descriptors_(descriptors), log_(log) {}
  ~Node() { Stop(); }

  absl::Status Start();
  void ReopenKeeperLog() { mounter_->ReopenKeeperLog(); }

 private:
  absl::Status OpenIdentity();
  void TendIdentityLater();
  void FindZone();
  absl::Status FindMembers();
  PeerTrust Trust() const { return config_.PeersAreProven() ? PeerTrust::kProven : PeerTrust::kUnproven; }
  // Where the members that may ask for a token give none, its server is asked once it is this node's turn.
  p2p::RegistryClient::Done<p2p::AccessToken> InTurn(p2p::RegistryClient::Done<p2p::AccessToken> done);
  // What this node asks registries for itself, and may be shown for it; null where members are not proven.
  p2p::PullRights* OwnRights() { return config_.PeersAreProven() ? &registry_->rights() : nullptr; }
  std::unique_ptr<SourceDirectory> SourcesAmongMembers();
  void MakeSwarm(const p2p::HostPort& self);
  absl::Status StartSwarm();
  void MakeBlame();
  void MakeProfiles();
  bool IsPublicImage(const std::string& reference, const Digest& manifest) const;
  Task OnWrongChunk(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes);
  absl::Status OpenStore(const MountTable& table);
  absl::Status OpenDoor();
  absl::Status StartQuota();
  void ImportContent();
  absl::Status OpenPolicy();
  ImageResolver::AskPolicy PolicyOfImages();
  absl::Status Serve();
  void MakeHome();
  absl::Status ServePeers();
  absl::Status ServeMirror();
  void MakePrefetcher();
  PeerWire WireOfPeers() const;
  LogIn LogInOfHints();
  absl::Status ServeHints();
  absl::Status ServeHintsByTls();
  absl::Status ServeNotifications();
  void MakeLocality();
  absl::Status PinForHint(const BlobKey& key);
  void NoticeMountsLater();
  void CheckFilesLater();
  absl::Status Alive() const;
  absl::Status Ready() const;
  void Stop();

  const Config config_;
  std::string zone_;  // as configured, or as Kubernetes has it; written before anything runs
  ondemand::DescriptorStore& descriptors_;
  DaemonLog& log_;
  Telemetry telemetry_;
  SteadyClock clock_;
  const Instant started_ = clock_.Now();
  ondemand::BackendChoice backend_;

  ManifestCache manifests_{config_.data_dir + "/manifests"};
  ProfileStore profile_store_{config_.data_dir + "/profiles"};
  HintJournal hint_journal_{config_.data_dir + "/hints.json"};
  StartReports start_reports_{clock_, config_.profiles_record_for > Duration(0)
                                          ? config_.profiles_record_for
                                          : StartReports::kLengthDefault};
  std::unique_ptr<p2p::AllowList> allowed_;
  std::unique_ptr<AsioExecutor> core_;
  std::unique_ptr<AsioExecutor> io_;
  std::unique_ptr<AsioExecutor> hints_;  // where images that are hinted at are looked up
  std::unique_ptr<index::DiskStore> store_;
  std::unique_ptr<p2p::RegistryClient> registry_;
  std::unique_ptr<OriginLedger> origin_ledger_;
  std::unique_ptr<p2p::OriginSource> origin_;
  std::unique_ptr<p2p::ChunkBlame> blame_;
  std::atomic<p2p::ChunkBlame*> blame_at_work_{nullptr};  // the store's threads look
  std::unique_ptr<p2p::WitnessSource> witness_;
  p2p::LeafCache leaves_;
  std::unique_ptr<p2p::RecipeVerifier> verifier_;
  std::atomic<p2p::RecipeVerifier*> verifier_at_work_{nullptr};  // the store's hasher looks
  std::unique_ptr<tls::IdentityFiles> identity_;                 // null: no TLS between nodes
  // The other nodes; none of these on a node without members.
  const std::string node_id_ = RandomNodeId();
  p2p::MemberHealth health_;
  std::unique_ptr<p2p::Members> members_;
  std::unique_ptr<p2p::PeerClient> peer_client_;
  std::unique_ptr<p2p::MemberExchange> exchange_;
  std::unique_ptr<api::MemberAnswers> member_answers_;
  std::unique_ptr<api::HolderAnswers> holder_answers_;
  std::unique_ptr<p2p::DialBack> dial_back_;
  std::unique_ptr<api::DialAnswers> dial_answers_;
  std::unique_ptr<p2p::PeerDocumentClient> peer_documents_;
  std::unique_ptr<p2p::HomeDocuments> home_documents_;
  std::shared_ptr<p2p::GateQueue> last_resort_queue_;  // for the registry
  std::unique_ptr<p2p::Swarm> swarm_;  // null if it is off, or nobody may connect to this node
  std::unique_ptr<RegistryDocuments> registry_documents_;
  std::unique_ptr<ImageDocuments> image_documents_;
  std::unique_ptr<p2p::ProfileExchange> profile_exchange_;
  ImageCounters image_counters_;
  HintPrecision hint_precision_{image_counters_};
  HintArrivals hint_arrivals_;
  std::shared_ptr<ImagePolicy> policy_;  // null: every image may be had
  std::unique_ptr<ImageResolver> resolver_;
  std::unique_ptr<p2p::GatedSource> paced_origin_, last_resort_;  // null without members
  std::unique_ptr<p2p::DownloadBudget> download_;                 // the same
  std::unique_ptr<p2p::Holders> holders_;                         // the same
  std::unique_ptr<SourceDirectory> sources_;
  std::shared_ptr<ChunkFlows> flows_;  // null: this node gives nothing to others
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<BackgroundFill> fills_;
  std::unique_ptr<StoreImagePreparer> preparer_;
  std::unique_ptr<AttachedProfiles> attached_profiles_;
  std::unique_ptr<StartProfiles> profiles_;
  // The store's callbacks come on its own threads, before there is a mounter and after it has gone.
  std::mutex mounter_mutex_;
  std::unique_ptr<Mounter> mounter_;
  BlobCache* cache_at_work_ = nullptr;     // for the same callbacks; guarded by mounter_mutex_
  std::atomic<bool> door_decided_{false};  // it is open, or there is none
  std::unique_ptr<Quota> quota_;
  std::atomic<Quota*> quota_at_work_{nullptr};  // the store's writers look
  std::unique_ptr<HintRelay> relay_;            // null without members
  std::unique_ptr<Prefetcher> prefetcher_;
  std::unique_ptr<HintInbox> inbox_;       // null without members
  std::unique_ptr<AsioExecutor> lookups_;  // where images whose locality is asked for are looked up
  std::unique_ptr<Locality> locality_;
  std::unique_ptr<BlobAdmin> blob_admin_;
  std::unique_ptr<PeerAdmin> peer_admin_;
  std::unique_ptr<StatusAdmin> status_admin_;
  std::unique_ptr<ProfileAdmin> profile_admin_;
  std::unique_ptr<NodeHealth> health_checks_;
  std::unique_ptr<api::Metrics> metrics_;
  std::unique_ptr<NodePage> page_;
  std::unique_ptr<api::HttpServer> http_;
  std::unique_ptr<NodePeerDocuments> given_documents_;
  std::shared_ptr<SpreadPlaces> whole_places_;  // null without members
  std::shared_ptr<p2p::MemberZones> zones_;
  std::shared_ptr<MemberRecipes> member_recipes_;
  std::unique_ptr<ImportedRights> imported_rights_;  // null: nothing is imported
  std::unique_ptr<ContentImport> content_import_;    // the same
  std::shared_ptr<HomeBlobs> given_blobs_;
  std::unique_ptr<api::HttpServer> peer_http_;
  std::shared_ptr<Mirror> mirror_;
  std::unique_ptr<api::HttpServer> mirror_http_;
  std::unique_ptr<PushedImageHints> pushed_images_;
  std::unique_ptr<api::HttpServer> push_http_;
  std::unique_ptr<api::GrpcServer> grpc_;
  std::unique_ptr<api::GrpcServer> hints_grpc_, hints_tls_grpc_;  // the latter null if it is off
  std::atomic<bool> ready_{false};
};

}  // namespace sluice
