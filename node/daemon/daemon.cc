#include "node/daemon/daemon.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "node/daemon/daemon_node.h"
#include "node/daemon/units.h"
#include "ondemand/keeper_on_host.h"
#include "ondemand/mount_point.h"
#include "p2p/recipe/whole_recipe.h"

namespace sluice {
namespace {

constexpr int kIoThreads = 4;
// A fill asks every home at once, and each at its own pace: one that is slow must not hold up the others, so
// what waits for it has its place beside what they are asked for.
constexpr uint32_t kFillFetchesAmongMembers = 256;
constexpr Duration kStopGrace = std::chrono::seconds(2);
// How long it may go unnoticed that somebody has moved a mount or taken it down.
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

bool KeeperIsOnHost(const Config& config) {
  return config.ondemand_keeper_on_host && config.ondemand_backend != "off";
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

std::string RandomNodeId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

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
  if (KeeperIsOnHost(config_)) {
    const absl::StatusOr<std::string> host = ondemand::FindHost(config_.data_dir, config_.runtime_dir);
    if (!host.ok()) return host.status();
    ondemand::UseMountsOf(*host);
  }
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
      home_documents_->Token(repository, InTurn(std::move(done)));
    };
  }
  registry_ = std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, *io_, telemetry_},
                                                    std::move(registry));
  origin_ledger_ = std::make_unique<OriginLedger>(*store_, [this](const Blob& blob) {
    if (swarm_) swarm_->Forget(blob);
  });
  p2p::OriginSource::Parts origin{*registry_, *origin_ledger_, clock_, *io_, telemetry_};
  if (!config_.cluster_members.empty()) {
    origin.run_around = p2p::StripeAround;
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
  std::optional<ImageDocuments::LastResort> last_resort;
  if (last_resort_queue_) last_resort.emplace(ImageDocuments::LastResort{clock_, last_resort_queue_});
  image_documents_ = std::make_unique<ImageDocuments>(*registry_documents_, home_documents_.get(),
                                                      TagsOf(config_), OwnRights(), std::move(last_resort));
  MakeBlame();
  ImageResolver::ClaimRecipe claim;
  if (config_.TakesUnsealedFromMembers())
    claim = [this](const BlobKey& key, const p2p::Recipe& recipe) {
      blame_->TakeClaim(key, [&] { verifier_->Claim(key, recipe); });
    };
  status = OpenPolicy();
  if (!status.ok()) return status;
  resolver_ = std::make_unique<ImageResolver>(*registry_, *image_documents_, *allowed_, *store_, &manifests_,
                                              peer_documents_.get(), std::move(claim), PolicyOfImages());
  sources_ = members_ ? SourcesAmongMembers()
                      : std::make_unique<FixedSources>(
                            std::vector<FixedSources::Source>{{SourceRank::kOrigin, witness_.get()}});
  if (!config_.cluster_listen.empty()) flows_ = std::make_shared<ChunkFlows>(clock_);
  cache_ = std::make_unique<BlobCache>(BlobCache::Parts{clock_,
                                                        *core_,
                                                        *io_,
                                                        *store_,
                                                        *verifier_,
                                                        *sources_,
                                                        telemetry_,
                                                        swarm_.get(),
                                                        {&start_reports_, &hint_arrivals_},
                                                        flows_.get()},
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
  auto mounter =
      std::make_unique<Mounter>(Mounter::Parts{clock_, *store_, *cache_, *fills_, *resolver_, *preparer_,
                                               telemetry_, start_reports_, profiles_.get()},
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
  MakePrefetcher();
  if (status.ok()) ImportContent();
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
  attached_profiles_ = std::make_unique<AttachedProfiles>(*image_documents_);
  profiles_ = std::make_unique<StartProfiles>(
      StartProfiles::Parts{
          clock_, *core_, *io_, *cache_, profile_store_, profile_exchange_.get(), attached_profiles_.get(),
          telemetry_, start_reports_,
          [this](const BlobKey& key, ChunkSet& touched) { return mounter_->TakeTouched(key, touched); },
          [this](const std::shared_ptr<Blob>& blob) {
            // One that is not proven and durable yet is told of by the store when it is.
            if (!store_->IsSettled(blob->key())) return;
            if (const absl::Status told = mounter_->OnBlobComplete(blob); !told.ok())
              spdlog::warn("reads of blob {} still ask the keeper: {}", blob->key().Short(), told.ToString());
          },
          [this] { return backend_.backend == ondemand::Backend::kFanotify; },
          [this] { return backend_.backend != ondemand::Backend::kCachefiles || config_.ondemand_keep_copy; },
          [this](const std::string& reference, const Digest& manifest) {
            return IsPublicImage(reference, manifest);
          },
          [this](const std::vector<std::shared_ptr<Blob>>& blobs, const ImageProfile& read) {
            hint_precision_.Started(blobs, read);
          }},
      std::move(options));
}

bool Daemon::Node::IsPublicImage(const std::string& reference, const Digest& manifest) const {
  const absl::StatusOr<p2p::ImageReference> image = p2p::ImageReference::Parse(reference);
  if (!image.ok()) return false;
  const absl::StatusOr<p2p::FetchedManifest> held = manifests_.Get({image->origin, "", manifest});
  return held.ok() && IsPublic(held->access);
}

absl::Status Daemon::Node::OpenStore(const MountTable& table) {
  index::DiskStoreOptions options{
      .data_dir = config_.data_dir,
      .content_dir = config_.store_import_containerd ? config_.store_containerd_content : std::string(),
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
            hint_precision_.Lost(blob);
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
  options.keeper_on_host = KeeperIsOnHost(config_);
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

void Daemon::Node::ImportContent() {
  if (!config_.store_import_containerd) return;
  imported_rights_ =
      std::make_unique<ImportedRights>(ImportedRights::Parts{clock_, *io_, *store_, *registry_});
  content_import_ = std::make_unique<ContentImport>(*store_, image_counters_, Warn);
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

void Daemon::Node::Stop() {
  ready_ = false;
  if (mounter_) mounter_->Cancel();
  if (content_import_) content_import_->Stop();
  if (policy_) policy_->Stop();
  if (peer_client_) peer_client_->Stop();  // what waits for a member goes on without it
  if (exchange_) exchange_->Stop();
  if (holders_) holders_->Stop();
  if (hints_grpc_) hints_grpc_->Stop(kStopGrace);
  if (hints_tls_grpc_) hints_tls_grpc_->Stop(kStopGrace);
  if (push_http_) push_http_->Stop();
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
