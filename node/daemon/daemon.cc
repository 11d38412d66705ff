#include "node/daemon/daemon.h"

#include <grp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <mutex>
#include <random>
#include <set>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "api/admin_service.h"
#include "api/grpc_server.h"
#include "api/http/dial_route.h"
#include "api/http/http_server.h"
#include "api/http/metrics.h"
#include "api/http/mirror_routes.h"
#include "api/http/operations_routes.h"
#include "api/http/peer_routes.h"
#include "api/http/profile_route.h"
#include "api/prefetch_service.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/hint_journal.h"
#include "node/daemon/home_blobs.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_preparer.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/locality.h"
#include "node/daemon/manifest_cache.h"
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
#include "node/daemon/profile_store.h"
#include "node/daemon/quota.h"
#include "node/daemon/registry_documents.h"
#include "node/daemon/start_profiles.h"
#include "node/daemon/tls.h"
#include "node/daemon/units.h"
#include "ondemand/backend.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/dial_back.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/home_documents.h"
#include "p2p/cluster/last_resort.h"
#include "p2p/cluster/member_exchange.h"
#include "p2p/cluster/member_health.h"
#include "p2p/cluster/member_zones.h"
#include "p2p/cluster/members.h"
#include "p2p/cluster/pace.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/cluster/profile_exchange.h"
#include "p2p/cluster/spreading.h"
#include "p2p/cluster/witness_source.h"
#include "p2p/http/url.h"
#include "p2p/recipe/leaf_cache.h"
#include "p2p/recipe/recipe_verifier.h"
#include "p2p/recipe/whole_recipe.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "p2p/swarm/swarm.h"

namespace sluice {
namespace {

constexpr int kIoThreads = 4;
constexpr int kLookupThreads = 4;
// A fill asks every home at once, and each at its own pace: one that is slow must not hold up the others, so
// what waits for it has its place beside what they are asked for.
constexpr uint32_t kFillFetchesAmongMembers = 256;
constexpr Duration kLoopPatience = std::chrono::seconds(2);
constexpr Duration kStopGrace = std::chrono::seconds(2);
// Each asker of another node's keeps one while it waits.
constexpr uint32_t kPeerConnectionsMax = 1024;
// Of these, requests of fills that are answered at once.
constexpr int kPeerFillsMax = 768;
// A connection without a request for so long makes room where all are taken.
constexpr Duration kPeerIdleYieldsAfter = std::chrono::seconds(1);
// How long a blob file that somebody has cut short or removed may go unnoticed.
constexpr Duration kFileCheckInterval = std::chrono::seconds(5);
// The same of mounts that somebody has moved or taken down.
constexpr Duration kMountsInterval = std::chrono::seconds(1);

absl::Status MakeFolder(const std::string& path, const char* what) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("cannot make the ", what, " ", path, ": ",
                                                    error.message(),
                                                    "; run sluiced as root, or set another one"));
  }
  return absl::OkStatus();
}

std::string KeeperPath(const Config& config) {
  if (!config.ondemand_keeper.empty()) return config.ondemand_keeper;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path().parent_path() / "libexec" / "sluice-keeper").string();
}

p2p::RegistryOptions RegistryOptionsOf(const Config& config) {
  p2p::RegistryOptions options;
  options.docker_config_path = config.DockerConfigPath();
  options.ca_file = config.origin_ca_file;
  options.plain_http = config.origin_plain_http;
  options.user_agent = absl::StrCat("sluice/", kVersion);
  options.connect_timeout = config.origin_connect_timeout;
  options.request_timeout = config.origin_request_timeout;
  options.rate_min_bytes_per_s = config.origin_min_rate;
  options.retries_max = config.origin_retries;
  options.requests_per_host_max = config.origin_connections_per_host;
  options.random_seed = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  return options;
}

// Of this process, told to nobody but those who talk to it.
std::string RandomNodeId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

// Returns once the loop has done what was posted before, or does not come to it.
void AwaitLoop(Executor& loop) {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> came = done->get_future();
  loop.Post([done] { done->set_value(); });
  came.wait_for(kLoopPatience);
}

void Warn(const std::string& text) {
  spdlog::warn("{}", text);
}

void Alarm(std::string_view text) {
  spdlog::error("ALARM: {}", text);
}

double RandomFraction() {
  thread_local absl::BitGen random;
  return absl::Uniform<double>(random, 0, 1);
}

absl::Status InSetting(const char* key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key, ": ", std::string(status.message())));
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
  OriginAccess AccessOf(const BlobKey& key, const BlobOrigin& origin) const override {
    return store_.AccessOf(key, origin);
  }

 private:
  index::DiskStore& store_;
  const Withdraw withdraw_;
};

ImageDocuments::Tags TagsOf(const Config& config) {
  return config.PeersAreBelieved() ? ImageDocuments::Tags::kFromHome : ImageDocuments::Tags::kFromRegistry;
}

NodePage::Options PageOptionsOf(const Config& config) {
  using Rule = NodePage::NamesRule;
  return {config.operations_listen, config.operations_names == "always"  ? Rule::kAlways
                                    : config.operations_names == "never" ? Rule::kNever
                                                                         : Rule::kLoopback};
}

BlobCacheLimits CacheLimitsOf(const Config& config) {
  BlobCacheLimits limits;
  limits.readahead_bytes_max = static_cast<uint32_t>(std::min<uint64_t>(config.fetch_readahead_max, 1 << 30));
  limits.readahead_mode = config.fetch_readahead == "off"     ? ReadaheadMode::kOff
                          : config.fetch_readahead == "fixed" ? ReadaheadMode::kFixed
                                                              : ReadaheadMode::kAdaptive;
  limits.inflight_bytes_max = config.fetch_inflight_max;
  limits.fetch_timeout = config.fetch_timeout;
  limits.first_byte_budget = config.origin_first_byte_budget;
  if (!config.cluster_members.empty()) {
    limits.inflight_bytes_max *= 2;
    for (const FetchClass fill : {FetchClass::kHint, FetchClass::kBackfill})
      limits.fetches_max[static_cast<size_t>(fill)] = kFillFetchesAmongMembers;
  }
  return limits;
}

// Errors: InvalidArgument.
absl::StatusOr<gid_t> FindGroup(const std::string& name) {
  uint32_t number = 0;
  if (absl::SimpleAtoi(name, &number)) return static_cast<gid_t>(number);
  std::vector<char> buffer(1 << 20);  // of the group with its members
  group entry{};
  group* found = nullptr;
  const int error = getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found) return found->gr_gid;
  return absl::InvalidArgumentError(absl::StrCat(
      "there is no group \"", name, "\" on this host", error == 0 ? "" : ": ",
      error == 0 ? "" : std::strerror(error), "; name one that there is, or make it with groupadd"));
}

template <typename Service>
std::vector<std::unique_ptr<api::GrpcService>> OneService(std::unique_ptr<Service> service) {
  std::vector<std::unique_ptr<api::GrpcService>> services;
  services.push_back(std::move(service));
  return services;
}

// The store tells what it has to tell again until somebody hears it.
absl::Status NotWiredYet() {
  return absl::AbortedError("the node is starting or stopping");
}

std::set<BlobKey> FilesOf(const MountTable& table) {
  std::set<BlobKey> files;
  for (const std::vector<MountEntry>& entries : {table.entries(), table.detached()}) {
    for (const MountEntry& entry : entries) {
      if (!ondemand::Lives(entry.instance)) continue;
      files.insert(entry.bootstrap.key);
      for (const MountedBlob& blob : entry.blobs) files.insert(blob.key);
    }
  }
  return files;
}

}  // namespace

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
  absl::Status FindMembers();
  PeerTrust Trust() const { return config_.PeersAreProven() ? PeerTrust::kProven : PeerTrust::kUnproven; }
  // What this node asks registries for itself, and may be shown for it; null where members are not proven.
  p2p::PullRights* OwnRights() { return config_.PeersAreProven() ? &registry_->rights() : nullptr; }
  std::unique_ptr<SourceDirectory> SourcesAmongMembers();
  void MakeSwarm(const p2p::HostPort& self);
  absl::Status StartSwarm();
  void MakeBlame();
  void MakeProfiles();
  Task OnWrongChunk(const Blob& blob, ChunkIndex index, std::span<const std::byte> bytes);
  absl::Status OpenStore(const MountTable& table);
  absl::Status OpenDoor();
  absl::Status StartQuota();
  absl::Status Serve();
  void MakeHome();
  absl::Status ServePeers();
  absl::Status ServeMirror();
  absl::Status ServeHints();
  void MakeLocality();
  absl::Status PinForHint(const BlobKey& key);
  void NoticeMountsLater();
  void CheckFilesLater();
  absl::Status Alive() const;
  absl::Status Ready() const;
  void Stop();

  const Config config_;
  ondemand::DescriptorStore& descriptors_;
  DaemonLog& log_;
  Telemetry telemetry_;
  SteadyClock clock_;
  const Instant started_ = clock_.Now();
  ondemand::BackendChoice backend_;

  ManifestCache manifests_{config_.data_dir + "/manifests"};
  ProfileStore profile_store_{config_.data_dir + "/profiles"};
  const HintJournal hint_journal_{config_.data_dir + "/hints.json"};
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
  std::unique_ptr<p2p::Swarm> swarm_;  // null if it is off, or nobody may connect to this node
  std::unique_ptr<RegistryDocuments> registry_documents_;
  std::unique_ptr<ImageDocuments> image_documents_;
  std::unique_ptr<p2p::ProfileExchange> profile_exchange_;
  std::unique_ptr<ImageResolver> resolver_;
  std::unique_ptr<p2p::GatedSource> paced_origin_, last_resort_;  // null without members
  std::unique_ptr<p2p::DownloadBudget> download_;                 // the same
  std::unique_ptr<p2p::Holders> holders_;                         // the same
  std::unique_ptr<SourceDirectory> sources_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<BackgroundFill> fills_;
  std::unique_ptr<StoreImagePreparer> preparer_;
  std::unique_ptr<StartProfiles> profiles_;
  // The store's callbacks come on its own threads, before there is a mounter and after it has gone.
  std::mutex mounter_mutex_;
  std::unique_ptr<Mounter> mounter_;
  BlobCache* cache_at_work_ = nullptr;     // for the same callbacks; guarded by mounter_mutex_
  std::atomic<bool> door_decided_{false};  // it is open, or there is none
  std::unique_ptr<Quota> quota_;
  std::atomic<Quota*> quota_at_work_{nullptr};  // the store's writers look
  std::unique_ptr<Prefetcher> prefetcher_;
  std::unique_ptr<AsioExecutor> lookups_;  // where images whose locality is asked for are looked up
  std::unique_ptr<Locality> locality_;
  std::unique_ptr<BlobAdmin> blob_admin_;
  std::unique_ptr<PeerAdmin> peer_admin_;
  std::unique_ptr<StatusAdmin> status_admin_;
  std::unique_ptr<NodeHealth> health_checks_;
  std::unique_ptr<api::Metrics> metrics_;
  std::unique_ptr<NodePage> page_;
  std::unique_ptr<api::HttpServer> http_;
  std::unique_ptr<NodePeerDocuments> given_documents_;
  std::shared_ptr<p2p::MemberZones> zones_;
  std::shared_ptr<HomeBlobs> given_blobs_;
  std::unique_ptr<api::HttpServer> peer_http_;
  std::shared_ptr<Mirror> mirror_;
  std::unique_ptr<api::HttpServer> mirror_http_;
  std::unique_ptr<api::GrpcServer> grpc_;
  std::unique_ptr<api::GrpcServer> hints_grpc_;
  std::atomic<bool> ready_{false};
};

absl::Status Daemon::Node::Start() {
  absl::StatusOr<p2p::AllowList> allowed = p2p::AllowList::Create(config_.images_allow);
  if (!allowed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("images.allow: ", std::string(allowed.status().message())));
  }
  allowed_ = std::make_unique<p2p::AllowList>(*std::move(allowed));
  absl::Status status = MakeFolder(config_.data_dir, "data directory (dataDir)");
  if (status.ok()) status = MakeFolder(config_.runtime_dir, "runtime directory (runtimeDir)");
  if (!status.ok()) return status;
  absl::StatusOr<MountTable> table = MountTable::Load(config_.data_dir + "/mounts.json");
  if (!table.ok()) return table.status();
  if (table->is_copy()) {
    spdlog::error(
        "ALARM: the table of mounts is a copy of another moment, put back: of what it says only mounts that "
        "live "
        "are believed; \"findmnt -t erofs\" shows what is mounted and \"sluice status\" what is watched");
  }

  core_ = std::make_unique<AsioExecutor>("core", 1);
  io_ = std::make_unique<AsioExecutor>("io", kIoThreads);
  status = OpenStore(*table);
  if (!status.ok()) return status;

  status = OpenIdentity();
  if (!status.ok()) return status;
  p2p::RegistryOptions registry = RegistryOptionsOf(config_);
  // Nobody can check a token that another node gives.
  if (!config_.cluster_members.empty() && config_.PeersAreBelieved()) {
    registry.shared_token = [this](const BlobOrigin& repository, auto done) {
      home_documents_->Token(repository, std::move(done));
    };
  }
  registry_ = std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, *io_, telemetry_},
                                                    std::move(registry));
  origin_ledger_ = std::make_unique<OriginLedger>(*store_, [this](const Blob& blob) {
    if (swarm_) swarm_->Forget(blob);
  });
  p2p::OriginSource::Parts origin{*registry_, *origin_ledger_, clock_, *io_, telemetry_};
  if (!config_.cluster_members.empty()) {
    origin.ask_for_table = [this](const BlobOrigin& place, const StoredForm& stored, const Grant& grant,
                                  auto done) {
      image_documents_->Table(place, stored, grant, std::move(done));
    };
  }
  origin_ = std::make_unique<p2p::OriginSource>(std::move(origin));
  verifier_ = std::make_unique<p2p::RecipeVerifier>(*store_, p2p::kRecipeCacheBytesDefault, &leaves_);
  status = FindMembers();
  if (!status.ok()) return status;
  registry_documents_ = std::make_unique<RegistryDocuments>(
      clock_, *io_, *registry_, home_documents_ ? RegistryDocuments::kKeep : Duration(0));
  image_documents_ = std::make_unique<ImageDocuments>(*registry_documents_, home_documents_.get(),
                                                      TagsOf(config_), OwnRights());
  MakeBlame();
  ImageResolver::ClaimRecipe claim;
  if (config_.TakesUnsealedFromMembers())
    claim = [this](const BlobKey& key, p2p::Recipe recipe) { verifier_->Claim(key, std::move(recipe)); };
  resolver_ = std::make_unique<ImageResolver>(*registry_, *image_documents_, *allowed_, *store_, manifests_,
                                              peer_documents_.get(), std::move(claim));
  sources_ = members_ ? SourcesAmongMembers()
                      : std::make_unique<FixedSources>(
                            std::vector<FixedSources::Source>{{SourceRank::kOrigin, witness_.get()}});
  cache_ = std::make_unique<BlobCache>(
      BlobCache::Parts{clock_, *core_, *io_, *store_, *verifier_, *sources_, telemetry_, swarm_.get()},
      CacheLimitsOf(config_));

  fills_ = std::make_unique<BackgroundFill>(clock_, *core_, *cache_, BackgroundFill::Limits{});
  preparer_ = std::make_unique<StoreImagePreparer>(StoreImagePreparer::Parts{
      clock_, *store_, *fills_, *verifier_, *resolver_, *image_documents_, *cache_, *origin_ledger_,
      peer_documents_.get(), *origin_, p2p::StoredReaderParts{*registry_, clock_, telemetry_},
      [this](const BlobKey& key) { return mounter_->DiscardKernelCopies(key); }});

  MakeProfiles();
  Mounter::Options options;
  options.fill_by_default = config_.ondemand_fill;
  options.keep_copy = config_.ondemand_keep_copy;
  auto mounter = std::make_unique<Mounter>(
      Mounter::Parts{clock_, *store_, *cache_, *fills_, *resolver_, *preparer_, telemetry_, profiles_.get()},
      options, *std::move(table));
  {
    std::lock_guard lock(mounter_mutex_);
    mounter_ = std::move(mounter);
    cache_at_work_ = cache_.get();
  }
  mounter_->Recover();
  status = OpenDoor();
  door_decided_ = status.ok();
  if (status.ok()) status = StartQuota();
  if (status.ok()) status = ServePeers();
  if (status.ok()) status = ServeMirror();
  if (status.ok() && identity_) TendIdentityLater();
  if (status.ok() && exchange_) exchange_->Start();
  if (status.ok() && holders_) holders_->Start();
  if (status.ok()) status = StartSwarm();
  if (status.ok()) status = Serve();
  return status;
}

void Daemon::Node::MakeProfiles() {
  if (members_)
    profile_exchange_ = std::make_unique<p2p::ProfileExchange>(
        p2p::ProfileExchange::Parts{clock_, *members_, health_, *peer_client_});
  StartProfiles::Options options;
  options.replay = config_.profiles_replay;
  options.record = config_.profiles_record_for;
  options.limits.unread_bytes_max = config_.profiles_unread_max;
  options.recorder = "self";
  if (members_)
    members_->Look([&](const p2p::MemberTable& table, Instant) { options.recorder = table.self().name; });
  options.trust = Trust();
  const auto is_public = [this](const std::string& reference, const Digest& manifest) {
    const absl::StatusOr<p2p::ImageReference> image = p2p::ImageReference::Parse(reference);
    if (!image.ok()) return false;
    const absl::StatusOr<p2p::FetchedManifest> held = manifests_.Get({image->origin, "", manifest});
    return held.ok() && IsPublic(held->access);
  };
  profiles_ = std::make_unique<StartProfiles>(
      StartProfiles::Parts{
          clock_, *core_, *io_, *cache_, profile_store_, profile_exchange_.get(), telemetry_,
          [this](const BlobKey& key, ChunkSet& touched) { return mounter_->TakeTouched(key, touched); },
          [this](const std::shared_ptr<Blob>& blob) {
            if (const absl::Status told = mounter_->OnBlobComplete(blob); !told.ok())
              spdlog::warn("reads of blob {} still ask the keeper: {}", blob->key().Short(), told.ToString());
          },
          [this] { return backend_.backend == ondemand::Backend::kFanotify; }, is_public},
      std::move(options));
}

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

absl::Status Daemon::Node::FindMembers() {
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
  absl::StatusOr<p2p::MemberRow> row = OwnRow(config_, options.self);
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
  members_->Look([&](const p2p::MemberTable& table, Instant) { client.name = table.self().name; });
  if (identity_) {
    client.identity = identity_->current();
    const absl::Status named = CheckOwnName(*client.identity->Get(), client.name);
    if (!named.ok()) return named;
  }
  peer_client_ = std::make_unique<p2p::PeerClient>(telemetry_, std::move(client));
  peer_documents_ = std::make_unique<p2p::PeerDocumentClient>(
      p2p::PeerDocumentClient::Parts{clock_, *members_, health_, *peer_client_, telemetry_, Warn});
  home_documents_ = std::make_unique<p2p::HomeDocuments>(p2p::HomeDocuments::Parts{
      clock_, *io_, *members_, health_, *peer_client_, telemetry_, Warn, OwnRights()});
  exchange_ = std::make_unique<p2p::MemberExchange>(
      p2p::MemberExchange::Parts{clock_, *members_, *peer_client_, Warn}, config_.cluster_refresh,
      [random = std::make_shared<absl::BitGen>()](size_t bound) {
        return absl::Uniform<size_t>(*random, 0, bound);
      });
  dial_back_ = std::make_unique<p2p::DialBack>(p2p::DialBack::Parts{clock_, *members_, *peer_client_});
  members_->Start();
  return absl::OkStatus();
}

std::unique_ptr<SourceDirectory> Daemon::Node::SourcesAmongMembers() {
  const p2p::GatedSource::Parts gated{clock_, *io_, *witness_};
  paced_origin_ = std::make_unique<p2p::GatedSource>(gated, std::make_unique<p2p::Pace>());
  last_resort_ = std::make_unique<p2p::GatedSource>(
      gated,
      std::make_unique<p2p::LastResortGate>(
          config_.peers_last_resort_rate, [this] { return members_->view()->members.size(); }, telemetry_));
  download_ = std::make_unique<p2p::DownloadBudget>(clock_, config_.peers_download_max);
  holders_ = std::make_unique<p2p::Holders>(
      p2p::Holders::Parts{clock_, *io_, *members_, health_, *peer_client_,
                          [this] { return HeldForOthers(*store_, Trust()); }, RandomFraction});
  return std::make_unique<p2p::ClusterDirectory>(p2p::ClusterDirectory::Parts{
      clock_, *io_, *members_, health_, *peer_client_, *store_,
      [this](const Blob& blob) { return verifier_->HasBoundRecipe(blob); },
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
      [this](const Blob& blob) { verifier_->DropClaim(blob.key()); }});
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

absl::Status Daemon::Node::OpenStore(const MountTable& table) {
  index::DiskStoreOptions options{
      .data_dir = config_.data_dir,
      .telemetry = telemetry_,
      .sync_interval = config_.store_sync_interval,
      .on_complete =
          [this](const std::shared_ptr<Blob>& blob) {
            if (p2p::ChunkBlame* const blame = blame_at_work_) blame->Proven(*blob);
            std::lock_guard lock(mounter_mutex_);
            return mounter_ && door_decided_ ? mounter_->OnBlobComplete(blob) : NotWiredYet();
          },
      .on_revoke =
          [this](const Blob& blob) {
            std::lock_guard lock(mounter_mutex_);
            if (swarm_) swarm_->Forget(blob);
            return mounter_ && door_decided_ ? mounter_->OnBlobRevoked(blob) : NotWiredYet();
          },
      .is_mounted = [files = FilesOf(table)](const BlobKey& key) { return files.contains(key); },
      .make_recipe = p2p::NewRecipeMaker,
      .verify_chunk = [this](const Blob& blob, ChunkIndex index,
                             std::span<const std::byte> bytes) -> absl::StatusOr<Evidence> {
        p2p::RecipeVerifier* const verifier = verifier_at_work_;
        // Nothing is held against what has been found to be wrong itself.
        if (!verifier || blame_at_work_.load()->IsRefuted(blob)) return Evidence::kUnverified;
        return verifier->Verify(blob, index, bytes);
      },
      .on_wrong_chunk = [this](const Blob& blob, ChunkIndex index,
                               std::span<const std::byte> bytes) { return OnWrongChunk(blob, index, bytes); },
      .had_again =
          [this](const Blob& blob) {
            p2p::ChunkBlame* const blame = blame_at_work_;
            return blame && blame->WholeWrong(blob);
          },
      .make_room =
          [this](uint64_t bytes, index::RoomNeed need) {
            if (Quota* const quota = quota_at_work_.load()) quota->MakeRoom(bytes, need);
          },
      .alarm = Alarm,
      .wall_clock_ms = {},
  };
  absl::StatusOr<std::unique_ptr<index::DiskStore>> store = index::DiskStore::OpenStore(std::move(options));
  if (!store.ok()) return store.status();
  store_ = *std::move(store);
  const index::OpenReport& report = store_->open_report();
  if (report.rebuilt)
    spdlog::error("ALARM: the index was begun anew, its chunks will be fetched again: {}", report.reason);
  spdlog::info("store {}: {} blobs, {} chunks present", config_.data_dir, report.blobs,
               report.chunks_present);
  return absl::OkStatus();
}

absl::Status Daemon::Node::OpenDoor() {
  const absl::StatusOr<std::optional<keeper::DoorKind>> waiting = ondemand::DoorThatWaits(descriptors_);
  if (!waiting.ok()) return waiting.status();
  absl::StatusOr<ondemand::BackendChoice> choice =
      ondemand::ChooseBackend(config_.ondemand_backend, config_.data_dir, *waiting);
  if (!choice.ok()) return choice.status();
  backend_ = *std::move(choice);
  spdlog::info("kernel backend {}: {}", ondemand::BackendName(backend_.backend), backend_.reason);
  if (backend_.backend == ondemand::Backend::kOff) {
    descriptors_.Clear();
    return absl::OkStatus();
  }
  ondemand::DoorOptions options;
  options.backend = backend_.backend;
  options.runtime_dir = config_.runtime_dir;
  options.state_dir = config_.data_dir;
  options.blobs_dir = store_->blobs_dir();
  options.cache_dir = config_.data_dir + "/cachefiles";
  options.domain = config_.ondemand_domain;
  options.keeper_path = KeeperPath(config_);
  options.keeper_log = config_.runtime_dir + "/keeper.log";
  options.read_deadline = config_.ondemand_read_deadline;
  options.descriptor_store = &descriptors_;
  return mounter_->OpenDoor(std::move(options));
}

absl::Status Daemon::Node::StartQuota() {
  const absl::StatusOr<uint64_t> capacity = CapacityOf(config_.store_capacity, config_.data_dir);
  if (!capacity.ok()) return InSetting("store.capacity", capacity.status());
  quota_ = std::make_unique<Quota>(
      Quota::Parts{*store_, telemetry_, [this] { return mounter_->KernelCacheBytes(); },
                   [this](const BlobKey& key) { mounter_->Release(key); },
                   [this](const BlobKey& key) { return mounter_->DiscardKernelCopies(key); },
                   [](const std::string& text) { spdlog::error("ALARM: {}", text); }},
      StoreLimits{*capacity, config_.store_high_watermark, config_.store_low_watermark});
  quota_at_work_ = quota_.get();
  spdlog::info("the store may take up {}, and takes up {}", FormatSize(*capacity),
               FormatSize(quota_->UsedBytes()));
  return absl::OkStatus();
}

void Daemon::Node::MakeHome() {
  zones_ = std::make_shared<p2p::MemberZones>(clock_, *members_);
  const auto spreader = std::make_shared<p2p::Spreader>(
      clock_, [zones = zones_](const std::string& name) { return zones->Find(name); },
      p2p::SpreadingLimits{.fanout = config_.peers_fanout});
  std::string name;
  members_->Look([&](const p2p::MemberTable& table, Instant) { name = table.self().name; });
  given_blobs_ = std::make_shared<HomeBlobs>(HomeBlobs::Parts{
      clock_, *io_, *store_, *cache_, *allowed_, spreader,
      [this](const std::string& registry) { return registry_ && registry_->AsksForPatience(registry); },
      std::move(name), Trust(), blame_.get()});
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
               holder_answers_.get(), given_blobs_.get(), node_id_, Trust(), kPeerFillsMax});
  api::AddProfileRoutes(routes, *profiles_, node_id_);
  if (dial_back_) {
    dial_answers_ = std::make_unique<NodeDials>(*dial_back_);
    api::AddDialRoute(routes, *dial_answers_, node_id_);
  }
  api::HttpLimits limits;
  limits.connections_max = kPeerConnectionsMax;
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

absl::Status Daemon::Node::ServeMirror() {
  if (config_.mirror_listen.empty()) return absl::OkStatus();
  Mirror::Options options;
  if (config_.mirror_authorization == "open") options.authorization = Mirror::Authorization::kOpen;
  if (config_.mirror_stale_tags) options.stale_tags = Mirror::StaleTags::kYes;
  options.budget = config_.mirror_budget;
  mirror_ = std::make_shared<Mirror>(Mirror::Parts{{clock_, *io_, *store_, *cache_, *fills_, telemetry_},
                                                   *allowed_,
                                                   *registry_,
                                                   *image_documents_,
                                                   manifests_},
                                     options);
  api::HttpRoutes routes;
  api::AddMirrorRoutes(routes, *mirror_, telemetry_);
  mirror_http_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
  const absl::Status status = mirror_http_->Start(config_.mirror_listen);
  if (!status.ok()) return InSetting("mirror.listen", status);
  spdlog::info("a mirror of the registries is on port {}", mirror_http_->port());
  if (!p2p::NamesLoopback(p2p::HostPort::Parse(config_.mirror_listen)->host)) {
    spdlog::warn(
        "mirror.listen {} is reached from beyond this machine, without TLS: whoever can connect gets public "
        "images through this node, and credentials come to it in the clear",
        config_.mirror_listen);
  }
  return absl::OkStatus();
}

absl::Status Daemon::Node::Serve() {
  const std::string backend(ondemand::BackendName(backend_.backend));
  blob_admin_ = std::make_unique<BlobAdmin>(
      *store_, *verifier_,
      [this](const BlobKey& key) {
        mounter_->Release(key);
        AwaitLoop(*core_);  // a fill that has just been stopped gives back its lease there
      },
      [this](const BlobKey& key) { return mounter_->DiscardKernelCopies(key); },
      [this](const BlobKey& key) { return mounter_->HoldersOf(key); });
  peer_admin_ = std::make_unique<PeerAdmin>(
      PeerAdmin::Parts{health_, clock_, members_.get(), exchange_.get(), dial_back_.get()});
  status_admin_ = std::make_unique<StatusAdmin>(
      StatusAdmin::Facts{kVersion, backend, backend_.reason, config_.data_dir, started_}, clock_, *store_,
      *mounter_, telemetry_, *peer_admin_, log_);
  api::MetricsExtras extras;
  extras.version = kVersion;
  extras.revision = SLUICE_REVISION;
  extras.backend = backend;
  extras.keeper = [this] {
    const ondemand::KeeperCounters counters = mounter_->keeper_counters();
    return api::KeeperCounts{counters.hits,   counters.hit_bytes, counters.published, counters.expired,
                             counters.denied, counters.errors,    counters.failed};
  };
  extras.log_dropped = [this] { return log_.dropped() + mounter_->keeper_counters().log_dropped; };
  extras.kernel_cache_bytes = [this] { return mounter_->KernelCacheBytes(); };
  metrics_ = std::make_unique<api::Metrics>(telemetry_, std::move(extras));
  health_checks_ = std::make_unique<NodeHealth>(clock_, *core_, config_.data_dir + "/health");
  if (!config_.operations_listen.empty()) {
    api::HttpRoutes routes;
    api::AddOperationsRoutes(routes, *metrics_, {[this] { return Alive(); }, [this] { return Ready(); }});
    page_ = std::make_unique<NodePage>(
        NodePage::Parts{clock_, *cache_, *store_, *mounter_, *status_admin_, *peer_admin_, telemetry_, log_},
        PageOptionsOf(config_));
    page_->AddRoutes(routes);
    http_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    const absl::Status status = http_->Start(config_.operations_listen);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("operations.listen: ", std::string(status.message())));
    }
    spdlog::info("metrics, health and the node's page on port {}", http_->port());
  }
  api::GrpcServerOptions options;
  options.socket_path = config_.ApiSocketPath();
  grpc_ = std::make_unique<api::GrpcServer>(
      options, OneService(std::make_unique<api::AdminService>(
                   api::AdminBackend{*status_admin_, *mounter_, *blob_admin_, *peer_admin_},
                   api::AdminServiceLimits{})));
  absl::Status status = grpc_->Start();
  if (!status.ok())
    return absl::Status(status.code(), absl::StrCat("api.socket: ", std::string(status.message())));
  status = ServeHints();
  if (!status.ok()) return status;
  grpc_->SetHealth(api::GrpcServer::Health::kServing);
  hints_grpc_->SetHealth(api::GrpcServer::Health::kServing);
  CheckFilesLater();
  NoticeMountsLater();
  ready_ = true;
  spdlog::info("ready; API on {}", options.socket_path);
  return absl::OkStatus();
}

absl::Status Daemon::Node::ServeHints() {
  Prefetcher::Limits limits;
  hints_ = std::make_unique<AsioExecutor>("hints", limits.resolving_max);
  prefetcher_ = std::make_unique<Prefetcher>(
      Prefetcher::Parts{clock_, *core_, *hints_, *cache_, *fills_, *preparer_, telemetry_,
                        [this](const BlobKey& key) { return PinForHint(key); }, &hint_journal_, io_.get()},
      limits);
  absl::StatusOr<std::vector<JournalledHint>> before = hint_journal_.Load();
  if (before.ok()) {
    prefetcher_->Restore(*std::move(before));
  } else {
    spdlog::warn("hints of the daemon before are lost: {}", before.status().ToString());
  }
  MakeLocality();
  api::GrpcServerOptions options;
  options.socket_path = config_.PrefetchSocketPath();
  options.access = api::SocketAccess::kOwnerAndGroup;
  if (!config_.api_prefetch_group.empty()) {
    const absl::StatusOr<gid_t> group = FindGroup(config_.api_prefetch_group);
    if (!group.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("api.prefetchGroup: ", std::string(group.status().message())));
    }
    options.group = *group;
  }
  hints_grpc_ = std::make_unique<api::GrpcServer>(
      options, OneService(std::make_unique<api::PrefetchService>(*prefetcher_, *locality_,
                                                                 api::PrefetchServiceLimits{})));
  const absl::Status status = hints_grpc_->Start();
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("api.prefetchSocket: ", std::string(status.message())));
}

// Who may hint is no administrator, and must not fill the store for good.
absl::Status Daemon::Node::PinForHint(const BlobKey& key) {
  uint64_t pinned_bytes = 0;
  for (const index::BlobInfo& blob : store_->List()) {
    if (blob.key == key && blob.pinned) return absl::OkStatus();
    if (blob.key == key || blob.pinned) pinned_bytes += blob.present_bytes;
  }
  if (pinned_bytes > static_cast<uint64_t>(telemetry_.cache_capacity_bytes.value()) / 2) {
    return absl::ResourceExhaustedError(
        "all of it is present and not pinned: more than half of the store's capacity would be; \"sluice blob "
        "unpin\" others first");
  }
  return store_->Pin(key);
}

void Daemon::Node::MakeLocality() {
  lookups_ = std::make_unique<AsioExecutor>("lookups", kLookupThreads);
  const auto present = [this](const BlobSpec& spec) -> uint64_t {
    const std::shared_ptr<Blob> blob = store_->FindBest(spec.digest);
    return blob && !blob->refused() ? std::min(blob->present_bytes(), spec.size) : 0;
  };
  Locality::Parts parts{clock_, *lookups_, *io_, *preparer_, present, nullptr, nullptr};
  if (holders_) {
    parts.own_name = [this] {
      std::string name;
      members_->Look([&](const p2p::MemberTable& table, Instant) { name = table.self().name; });
      return name;
    };
    parts.ask_shares = [this](const p2p::BlobIdentity& blob, Locality::OnShares done) {
      holders_->AskShares(blob, std::move(done));
    };
  }
  locality_ = std::make_unique<Locality>(std::move(parts), Locality::Limits{});
}

void Daemon::Node::NoticeMountsLater() {
  io_->PostAt(clock_.Now() + kMountsInterval, [this] {
    mounter_->NoticeMounts();
    NoticeMountsLater();
  });
}

void Daemon::Node::CheckFilesLater() {
  io_->PostAt(clock_.Now() + kFileCheckInterval, [this] {
    store_->CheckFiles();
    mounter_->Tend();
    CheckFilesLater();
  });
}

absl::Status Daemon::Node::Alive() const {
  absl::Status status = health_checks_->Loop();
  if (status.ok() && log_.Stuck()) status = absl::UnavailableError("nobody takes the lines of the log");
  return status;
}

absl::Status Daemon::Node::Ready() const {
  if (!ready_) return absl::UnavailableError("the node is starting or stopping");
  std::vector<std::string> wrong;
  for (const absl::Status& status :
       {health_checks_->Loop(), health_checks_->Disk(), mounter_->FrontEndStatus()}) {
    if (!status.ok()) wrong.emplace_back(status.message());
  }
  return wrong.empty() ? absl::OkStatus() : absl::UnavailableError(absl::StrJoin(wrong, "; "));
}

void Daemon::Node::Stop() {
  ready_ = false;
  if (mounter_) mounter_->Cancel();
  if (peer_client_) peer_client_->Stop();  // what waits for a member goes on without it
  if (exchange_) exchange_->Stop();
  if (holders_) holders_->Stop();
  if (hints_grpc_) hints_grpc_->Stop(kStopGrace);
  if (prefetcher_) prefetcher_->Stop();
  if (grpc_) grpc_->Stop(kStopGrace);
  if (http_) http_->Stop();
  if (page_) page_->Stop();
  health_checks_.reset();
  if (peer_http_) peer_http_->Stop();
  if (mirror_http_) mirror_http_->Stop();
  if (zones_) zones_->Close();
  if (members_) members_->Stop();
  if (swarm_) swarm_->Stop();
  if (quota_) quota_->Stop();
  if (profiles_) profiles_->Stop();
  if (mounter_) mounter_->Stop();
  if (hints_) hints_->Stop();
  if (lookups_) lookups_->Stop();
  // The loop ends first: nothing may start another fetch.
  if (core_) core_->Stop();
  if (registry_) registry_->Stop();
  // What waited to be asked for again may still turn to the client.
  if (io_) io_->Stop();
  registry_.reset();
  prefetcher_.reset();
  fills_.reset();
  {
    const std::lock_guard lock(mounter_mutex_);
    cache_at_work_ = nullptr;
  }
  cache_.reset();
  if (store_) store_->Stop();
  std::lock_guard lock(mounter_mutex_);
  mounter_.reset();
}

Daemon::Daemon(std::unique_ptr<Node> node) : node_(std::move(node)) {}

Daemon::~Daemon() = default;

void Daemon::ReopenKeeperLog() {
  node_->ReopenKeeperLog();
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const Config& config,
                                                      ondemand::DescriptorStore& descriptors,
                                                      DaemonLog& log) {
  auto node = std::make_unique<Node>(config, descriptors, log);
  const absl::Status status = node->Start();
  if (!status.ok()) return status;
  return std::unique_ptr<Daemon>(new Daemon(std::move(node)));
}

}  // namespace sluice
