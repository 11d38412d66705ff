#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/http/peer_routes.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/home_blobs.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/peer_documents.h"
#include "p2p/cluster/chunk_blame.h"
#include "p2p/cluster/directory.h"
#include "p2p/cluster/download_budget.h"
#include "p2p/cluster/holders.h"
#include "p2p/cluster/last_resort.h"
#include "p2p/cluster/pace.h"
#include "p2p/cluster/peer_client.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/cluster/spreading.h"
#include "p2p/cluster/witness_source.h"
#include "p2p/recipe/recipe.h"
#include "p2p/recipe/recipe_verifier.h"
#include "p2p/recipe/whole_recipe.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice {

// A port of the loopback that nobody listens on just now.
inline uint16_t FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

// A member of a cluster in this process: the daemon's parts from the listener to the registry, wired as
// there, without mounts. It knows those that it meets.
class MemberNode {
 public:
  explicit MemberNode(std::string name, p2p::Unsealed unsealed = p2p::Unsealed::kFromRegistry)
      : name_(std::move(name)), address_{"127.0.0.1", FreePort()}, unsealed_(unsealed) {
    OpenStore();
    MakeSources();
    Serve();
  }
  ~MemberNode() { Stop(); }

  const std::string& name() const { return name_; }
  p2p::Member AsMember() const { return {address_, name_, 0, false, {}}; }
  void Meet(const MemberNode& other) {
    members_->Change([&](p2p::MemberTable& table, Instant now) {
      table.HeardFrom({other.name_, {other.address_}, "", p2p::kProtocolMajor, 1}, other.address_, now);
    });
  }

  // What a mount does: the blob is registered as a manifest says, and its recipe kept.
  std::shared_ptr<Blob> Know(const BlobSpec& spec, const std::string& recipe = "") {
    const absl::StatusOr<std::shared_ptr<Blob>> blob = store_->Open(spec);
    EXPECT_TRUE(blob.ok()) << blob.status();
    EXPECT_TRUE(recipe.empty() || store_->PutRecipe((*blob)->key(), recipe).ok());
    return *blob;
  }
  // The bytes of a range, as a reader gets them.
  absl::StatusOr<std::string> Read(const Blob& blob, ByteRange range, Duration patience = kPatience) {
    auto done = std::make_shared<std::promise<absl::StatusOr<ReadResult>>>();
    auto result = done->get_future();
    cache_->Read({.blob = blob.key(), .range = range, .deadline = clock_.Now() + patience},
                 [done](absl::StatusOr<ReadResult> read) { done->set_value(std::move(read)); });
    const absl::StatusOr<ReadResult> read = result.get();
    if (!read.ok()) return read.status();
    const absl::StatusOr<index::FileDescriptor> file = store_->OpenForRead(blob.key());
    if (!file.ok()) return file.status();
    std::string bytes(range.length, '\0');
    EXPECT_EQ(::pread(file->get(), bytes.data(), bytes.size(), static_cast<off_t>(range.offset)),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }
  absl::StatusOr<std::string> ReadAll(const Blob& blob) { return Read(blob, {0, blob.geometry().size()}); }
  // The disk spoils what is there.
  void Spoil(const Blob& blob, ChunkIndex index) {
    std::fstream file(store_->BlobPath(blob.key()), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(blob.geometry().RangeOf(index).offset));
    file << "spoilt by the disk";
    EXPECT_TRUE(file.good());
  }

  bool IsBanned(const MemberNode& other) {
    return !health_.Usable(other.AsMember(), clock_.Now()) &&
           health_.RecordOf(other.name(), clock_.Now()).skip_reason.starts_with("banned");
  }
  uint64_t bans() const {
    uint64_t count = 0;
    for (const Counter& reason : telemetry_.peer_bans) count += reason.value();
    return count;
  }
  std::vector<std::string> alarms() {
    const std::lock_guard lock(mutex_);
    return alarms_;
  }
  uint64_t ReadFrom(SourceKind kind) const { return telemetry_.reads[static_cast<int>(kind)].value(); }

  static constexpr Duration kPatience = std::chrono::seconds(60);

  const std::string name_;
  const p2p::HostPort address_;
  const p2p::Unsealed unsealed_;
  index::TempDir temp_;
  Telemetry telemetry_;
  SteadyClock clock_;
  const std::shared_ptr<ChunkFlows> flows_ = std::make_shared<ChunkFlows>(clock_);
  std::mutex mutex_;
  std::vector<std::string> alarms_;  // guarded by mutex_
  p2p::MemberHealth health_;
  p2p::DownloadBudget download_{clock_, 0};
  std::unique_ptr<index::DiskStore> store_;
  std::unique_ptr<AsioExecutor> core_, io_;
  std::unique_ptr<p2p::Members> members_;
  std::unique_ptr<p2p::PeerClient> client_;
  std::unique_ptr<p2p::RegistryClient> registry_;
  std::unique_ptr<p2p::OriginSource> origin_;
  std::unique_ptr<p2p::ChunkBlame> blame_;
  std::unique_ptr<p2p::WitnessSource> witness_;
  std::unique_ptr<p2p::RecipeVerifier> verifier_;
  std::unique_ptr<p2p::GatedSource> paced_, last_resort_;
  std::unique_ptr<p2p::Holders> holders_;
  std::unique_ptr<p2p::PeerDocumentClient> peer_documents_;
  std::unique_ptr<p2p::ClusterDirectory> directory_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<p2p::AllowList> allowed_;
  std::shared_ptr<HomeBlobs> home_;
  std::unique_ptr<ManifestCache> manifests_;
  std::unique_ptr<NodePeerDocuments> documents_;
  std::unique_ptr<api::HttpServer> server_;

 private:
  void Alarm(const std::string& text) {
    const std::lock_guard lock(mutex_);
    alarms_.push_back(text);
  }

  void OpenStore() {
    store_ = *index::DiskStore::OpenStore({
        .data_dir = temp_.path(),
        .telemetry = telemetry_,
        .on_complete =
            [this](const std::shared_ptr<Blob>& blob) {
              if (blame_) blame_->Proven(*blob);
              return absl::OkStatus();
            },
        .make_recipe = p2p::NewRecipeMaker,
        .verify_chunk = [this](const Blob& blob, ChunkIndex index,
                               std::span<const std::byte> bytes) -> absl::StatusOr<Evidence> {
          if (blame_->IsRefuted(blob)) return Evidence::kUnverified;
          return verifier_->Verify(blob, index, bytes);
        },
        .on_wrong_chunk = [this](const Blob& blob, ChunkIndex index,
                                 std::span<const std::byte> bytes) -> Task {
          blame_->FoundWrong(blob, index, bytes);
          return nullptr;
        },
        .had_again = [this](const Blob& blob) { return blame_->WholeWrong(blob); },
        .alarm = [this](const std::string& text) { Alarm(text); },
    });
  }

  void MakeSources() {
    core_ = std::make_unique<AsioExecutor>("core", 1);
    io_ = std::make_unique<AsioExecutor>("io", 2);
    p2p::Members::Options options;
    options.self = address_;
    options.row = {name_, {address_}, "", p2p::kProtocolMajor, 1};
    members_ = std::make_unique<p2p::Members>(std::move(options));
    p2p::PeerClientOptions client;
    client.node_id = name_;
    client.name = name_;
    client_ = std::make_unique<p2p::PeerClient>(telemetry_, std::move(client));
    p2p::RegistryOptions registry;
    registry.retries_max = 0;
    registry_ =
        std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, *io_, telemetry_}, registry);
    origin_ = std::make_unique<p2p::OriginSource>(
        p2p::OriginSource::Parts{*registry_, *store_, clock_, *io_, telemetry_});
    verifier_ = std::make_unique<p2p::RecipeVerifier>(*store_);
    const auto warn = [](const std::string&) {};
    blame_ = std::make_unique<p2p::ChunkBlame>(p2p::ChunkBlame::Parts{
        clock_, members_.get(), health_, telemetry_, warn, [this](const std::string& text) { Alarm(text); },
        [](const Digest&, const Digest&) { return std::string("manifest M"); },
        [this](const Blob& blob) { return verifier_->HasClaim(blob.key()); },
        [this](const Blob& blob) { return verifier_->DropClaim(blob.key()); }});
    witness_ = std::make_unique<p2p::WitnessSource>(*origin_, *blame_);
    const p2p::GateQueue::Parts gated{clock_, *io_};
    paced_ = std::make_unique<p2p::GatedSource>(*witness_, gated, std::make_unique<p2p::Pace>());
    last_resort_ = std::make_unique<p2p::GatedSource>(
        *witness_, gated,
        std::make_unique<p2p::LastResortGate>(
            8 << 20, [this] { return members_->view()->members.size(); }, telemetry_));
    holders_ = std::make_unique<p2p::Holders>(p2p::Holders::Parts{clock_, *io_, *members_, health_, *client_,
                                                                  [] { return std::vector<p2p::HeldBlob>(); },
                                                                  [] { return 0.5; }});
    directory_ = std::make_unique<p2p::ClusterDirectory>(
        p2p::ClusterDirectory::Parts{clock_, *io_, *members_, health_, *client_, *store_,
                                     [this](const std::shared_ptr<Blob>& blob, const std::string&,
                                            auto then) { std::move(then)(verifier_->HasBoundRecipe(*blob)); },
                                     [] { return false; }, [] { return 0.5; }, warn, download_, *holders_,
                                     *paced_, *last_resort_, *blame_, unsealed_});
    peer_documents_ = std::make_unique<p2p::PeerDocumentClient>(
        p2p::DocumentAsking::Parts{clock_, *io_, *members_, health_, *client_, warn}, telemetry_);
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{
            clock_, *core_, *io_, *store_, *verifier_, *directory_, telemetry_, nullptr, {}, flows_.get()},
        BlobCacheLimits{});
  }

  void Serve() {
    allowed_ = std::make_unique<p2p::AllowList>(*p2p::AllowList::Create(std::vector<std::string>{"*"}));
    const auto spreader = std::make_shared<p2p::Spreader>(
        clock_, [](const std::string&) { return std::optional<std::string>(""); });
    home_ = std::make_shared<HomeBlobs>(HomeBlobs::Parts{
        clock_, *io_, *store_, *cache_, *allowed_, spreader, [](const std::string&) { return false; }, name_,
        PeerTrust::kUnproven, blame_.get(), nullptr, nullptr, flows_});
    home_->WatchFlows();
    manifests_ = std::make_unique<ManifestCache>(temp_.path() + "/manifests");
    documents_ = std::make_unique<NodePeerDocuments>(*store_, *manifests_, std::nullopt);
    api::HttpRoutes routes;
    api::AddPeerRoutes(routes, {*store_, *store_, *store_, *documents_, *io_, telemetry_, clock_, nullptr,
                                nullptr, home_.get(), name_});
    server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    EXPECT_TRUE(server_->Start(address_.ToString()).ok());
  }

  // In the daemon's order.
  void Stop() {
    client_->Stop();
    server_->Stop();
    core_->Stop();
    registry_->Stop();
    io_->Stop();
    registry_.reset();
    cache_.reset();
    store_->Stop();
    server_.reset();
    io_.reset();
    core_.reset();
    home_.reset();
  }
};

}  // namespace sluice
