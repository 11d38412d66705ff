#include <grp.h>

#include <cerrno>
#include <cstring>
#include <future>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "api/admin_service.h"
#include "api/http/mirror_routes.h"
#include "api/http/operations_routes.h"
#include "api/prefetch_service.h"
#include "node/daemon/daemon_node.h"
#include "node/daemon/login_preparer.h"
#include "p2p/http/url.h"
#include "p2p/registry/reference.h"

namespace sluice {
namespace {

constexpr int kLookupThreads = 4;
constexpr Duration kLoopPatience = std::chrono::seconds(2);
// Runtimes and scrapers keep connections that they don't use; a probe is not to be refused for them.
constexpr Duration kIdleYieldsAfter = std::chrono::milliseconds(200);

api::HttpLimits LocalLimits() {
  api::HttpLimits limits;
  limits.idle_yields_after = kIdleYieldsAfter;
  return limits;
}

// Returns once the loop has done what was posted before, or does not come to it.
void AwaitLoop(Executor& loop) {
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> came = done->get_future();
  loop.Post([done] { done->set_value(); });
  came.wait_for(kLoopPatience);
}

NodePage::Options PageOptionsOf(const Config& config) {
  using Rule = NodePage::NamesRule;
  return {config.operations_listen, config.operations_names == "always"  ? Rule::kAlways
                                    : config.operations_names == "never" ? Rule::kNever
                                                                         : Rule::kLoopback};
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

}  // namespace

absl::Status Daemon::Node::OpenPolicy() {
  if (config_.policy_verifier_dir.empty()) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<ImagePolicy>> policy =
      ImagePolicy::Open({config_.policy_verifier_dir, config_.policy_timeout}, clock_, image_counters_);
  if (!policy.ok()) return InSetting("policy.verifierDir", policy.status());
  policy_ = *std::move(policy);
  return absl::OkStatus();
}

ImageResolver::AskPolicy Daemon::Node::PolicyOfImages() {
  if (!policy_) return nullptr;
  return [this](const p2p::ImageReference& image, const p2p::FetchedManifest& manifest) {
    return policy_->Ask(image.origin, image.ToString(), manifest);
  };
}

absl::Status Daemon::Node::ServeMirror() {
  if (config_.mirror_listen.empty()) return absl::OkStatus();
  Mirror::Options options;
  if (config_.mirror_authorization == "open") options.authorization = Mirror::Authorization::kOpen;
  if (config_.mirror_stale_tags) options.stale_tags = Mirror::StaleTags::kYes;
  options.budget = config_.mirror_budget;
  options.public_ttl = config_.mirror_public_ttl;
  mirror_ = std::make_shared<Mirror>(Mirror::Parts{{clock_, *io_, *store_, *cache_, *fills_, telemetry_},
                                                   *allowed_,
                                                   *registry_,
                                                   *image_documents_,
                                                   manifests_,
                                                   policy_.get()},
                                     options);
  api::HttpRoutes routes;
  api::AddMirrorRoutes(routes, *mirror_, telemetry_);
  mirror_http_ = std::make_unique<api::HttpServer>(std::move(routes), LocalLimits());
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
      *mounter_, telemetry_, *peer_admin_, log_, *prefetcher_, image_counters_,
      [this](api::DrainState state) {
        cache_->SetReadahead(state == api::DrainState::kDrained ? BlobCache::Readahead::kEnded
                                                                : BlobCache::Readahead::kAllowed);
        fills_->SetDrain(state);
        profiles_->SetDrain(state);
      });
  profile_admin_ = std::make_unique<ProfileAdmin>(ProfileAdmin::Parts{
      *preparer_, profile_store_,
      [this](const Digest& manifest, Instant deadline) { profiles_->AwaitEnded(manifest, deadline); },
      [this](const std::string& reference, const Digest& manifest) {
        return IsPublicImage(reference, manifest);
      }});
  api::MetricsExtras extras;
  extras.version = kVersion;
  extras.revision = SLUICE_REVISION;
  extras.backend = backend;
  extras.images = &image_counters_;
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
    http_ = std::make_unique<api::HttpServer>(std::move(routes), LocalLimits());
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
                   api::AdminBackend{*status_admin_, *mounter_, *blob_admin_, *peer_admin_, *profile_admin_},
                   api::AdminServiceLimits{})));
  absl::Status status = grpc_->Start();
  if (!status.ok())
    return absl::Status(status.code(), absl::StrCat("api.socket: ", std::string(status.message())));
  status = ServeHints();
  if (status.ok()) status = ServeNotifications();
  if (!status.ok()) return status;
  grpc_->SetHealth(api::GrpcServer::Health::kServing);
  hints_grpc_->SetHealth(api::GrpcServer::Health::kServing);
  if (hints_tls_grpc_) hints_tls_grpc_->SetHealth(api::GrpcServer::Health::kServing);
  CheckFilesLater();
  NoticeMountsLater();
  ready_ = true;
  spdlog::info("ready; API on {}", options.socket_path);
  return absl::OkStatus();
}

void Daemon::Node::MakePrefetcher() {
  if (members_) {
    relay_ = std::make_unique<HintRelay>(
        HintRelay::Parts{clock_, *io_, *members_, *peer_client_, WireOfPeers()}, HintRelay::Limits{});
  }
  Prefetcher::Limits limits;
  limits.profile_bytes_max = config_.profiles_unread_max;
  hints_ = std::make_unique<AsioExecutor>("hints", limits.resolving_max);
  prefetcher_ = std::make_unique<Prefetcher>(
      Prefetcher::Parts{clock_, *core_, *hints_, *cache_, *fills_, *preparer_, telemetry_,
                        [this](const BlobKey& key) { return PinForHint(key); },
                        [this](const Digest& manifest) { return profiles_->Find(manifest); }, &hint_journal_,
                        io_.get(), relay_.get(), LogInOfHints(), &hint_precision_, &hint_arrivals_},
      limits);
}

PeerWire Daemon::Node::WireOfPeers() const {
  return identity_ ? PeerWire::kTls : PeerWire::kPlain;
}

LogIn Daemon::Node::LogInOfHints() {
  const LoginPreparer::Parts parts{clock_,
                                   *core_,
                                   *io_,
                                   *store_,
                                   *cache_,
                                   *fills_,
                                   *verifier_,
                                   *origin_ledger_,
                                   *registry_,
                                   *allowed_,
                                   telemetry_,
                                   PolicyOfImages(),
                                   [this](const BlobKey& key) { return mounter_->DiscardKernelCopies(key); }};
  return [this, parts](const std::string& reference, const api::HintCredentials& given) {
    // Its Check wrote the reference.
    const std::string registry = p2p::ImageReference::Parse(reference)->origin.registry;
    Grant grant = registry_->LogIn(registry, given.username, given.password);
    auto preparer = std::make_unique<LoginPreparer>(parts, grant);
    return std::make_shared<const HintLogin>(HintLogin{std::move(grant), std::move(preparer)});
  };
}

absl::Status Daemon::Node::ServeHints() {
  absl::StatusOr<std::vector<JournalledHint>> before = hint_journal_.Load();
  if (!before.ok()) spdlog::warn("hints of the daemon before are lost: {}", before.status().ToString());
  prefetcher_->Restore(before.ok() ? *std::move(before) : std::vector<JournalledHint>());
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
  if (!status.ok()) return InSetting("api.prefetchSocket", status);
  return ServeHintsByTls();
}

absl::Status Daemon::Node::ServeHintsByTls() {
  if (config_.api_prefetch_listen.empty()) return absl::OkStatus();
  const absl::StatusOr<p2p::HostPort> address = p2p::HostPort::Parse(config_.api_prefetch_listen);
  if (!address.ok()) return InSetting("api.prefetchListen", address.status());
  api::GrpcServerOptions options;
  options.tls =
      api::GrpcTls{config_.api_prefetch_listen,
                   config_.tls_certificate,
                   config_.tls_key,
                   [identity = identity_->current(), name = config_.api_prefetch_client](
                       const std::string& chain) { return identity->Get()->RefusalOfClient(chain, name); },
                   &telemetry_,
                   Warn};
  hints_tls_grpc_ = std::make_unique<api::GrpcServer>(
      options, OneService(std::make_unique<api::PrefetchService>(*prefetcher_, *locality_,
                                                                 api::PrefetchServiceLimits{})));
  const absl::Status status = hints_tls_grpc_->Start();
  if (!status.ok()) return InSetting("api.prefetchListen", status);
  spdlog::info("hints are taken at port {} from who has a certificate for {}", hints_tls_grpc_->port(),
               config_.api_prefetch_client);
  return absl::OkStatus();
}

absl::Status Daemon::Node::ServeNotifications() {
  if (config_.notifications_listen.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> secret = ReadSecret(config_.notifications_secret_file);
  if (!secret.ok()) return InSetting("notifications.secretFile", secret.status());
  const absl::StatusOr<p2p::HostPort> address = p2p::HostPort::Parse(config_.notifications_listen);
  const bool is_local = address.ok() && p2p::NamesLoopback(address->host);
  if (!is_local && !identity_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "notifications.listen: ", config_.notifications_listen,
        " is reached from beyond this machine, where the secret would be read on the way; set tls.ca, "
        "tls.certificate and tls.key, or listen at 127.0.0.1"));
  }
  pushed_images_ = std::make_unique<PushedImageHints>(*prefetcher_);
  api::HttpRoutes routes;
  api::AddPushRoute(routes, *std::move(secret), *pushed_images_, image_counters_);
  api::HttpTls tls;
  // A registry has no certificate to show: by the secret it is known.
  if (!is_local) tls = {identity_->current(), &telemetry_, Warn, api::HttpTls::Clients::kAnybody};
  push_http_ = std::make_unique<api::HttpServer>(std::move(routes), LocalLimits(), std::move(tls));
  const absl::Status status = push_http_->Start(config_.notifications_listen);
  if (!status.ok()) return InSetting("notifications.listen", status);
  spdlog::info("registries may tell what was pushed at port {}", push_http_->port());
  return absl::OkStatus();
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
  if (prefetcher_->drain() == api::DrainState::kDrained) wrong.emplace_back("the node is drained");
  return wrong.empty() ? absl::OkStatus() : absl::UnavailableError(absl::StrJoin(wrong, "; "));
}

}  // namespace sluice
