#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "api/http/peer_routes.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/home_blobs.h"
#include "node/daemon/imported_rights.h"
#include "node/daemon/manifest_cache.h"
#include "node/daemon/peer_documents.h"
#include "node/daemon/registry_documents.h"
#include "node/wall_clock.h"
#include "p2p/cluster/spreading.h"
#include "p2p/recipe/leaf_cache.h"
#include "p2p/recipe/recipe_verifier.h"
#include "p2p/registry/allow_list.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/registry_client.h"
#include "tests/unit/api/raw_client.h"
#include "tests/unit/index/store_fixture.h"

namespace sluice {

// The 102 as it stands on the wire.
inline constexpr char kInterim[] = "HTTP/1.1 102 Processing\r\n\r\n";

inline constexpr char kInterimThrottled[] = "HTTP/1.1 102 Processing\r\nSluice-Origin: throttled\r\n\r\n";

struct Answer {
  int interims = 0;
  int throttled = 0;                           // interims that say that the origin asks for patience
  int status = 0;                              // 0: the connection was closed without one
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  std::string Header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
  std::vector<std::string> Helpers() const {
    return absl::StrSplit(Header("sluice-helpers"), ',', absl::SkipEmpty());
  }
};

// What another node would send, and how it reads the answer.
struct Asking {
  std::string role = "home";
  std::string claim = {};  // empty: none
  std::string range = "bytes=0-16383";
  std::string from = "a";
  std::string more = {};  // headers, each with its end of line
};

class RawAsker {
 public:
  RawAsker(uint16_t port, const std::string& path, const Asking& asking) : client_(port) {
    std::string headers;
    if (!asking.role.empty()) absl::StrAppend(&headers, "Sluice-Role: ", asking.role, "\r\n");
    if (!asking.claim.empty()) absl::StrAppend(&headers, "Sluice-Blob: ", asking.claim, "\r\n");
    if (!asking.range.empty()) absl::StrAppend(&headers, "Range: ", asking.range, "\r\n");
    if (!asking.from.empty()) absl::StrAppend(&headers, "Sluice-From: ", asking.from, "\r\n");
    client_.Send(api::Request("GET", path, headers + asking.more));
  }
  // One interim answer, which is to be the next thing that comes.
  void AwaitInterim() {
    EXPECT_EQ(client_.ReadThrough("\r\n\r\n"), kInterim);
    ++interims_;
  }
  Answer Read() {
    Answer answer = ReadHead();
    answer.body = ReadBody(std::stoul("0" + answer.Header("content-length")));
    return answer;
  }
  // The next bytes of the body, or what comes before the end of the connection.
  std::string ReadBody(size_t size) { return client_.ReadBytes(size); }
  Answer ReadHead() {
    Answer answer;
    answer.interims = interims_;
    std::string head;
    for (;;) {
      head = client_.ReadThrough("\r\n\r\n");
      if (head != kInterim && head != kInterimThrottled) break;
      ++answer.interims;
      answer.throttled += head == kInterimThrottled;
    }
    if (head.empty()) return answer;
    answer.status = std::atoi(head.c_str() + sizeof("HTTP/1.1"));
    for (const absl::string_view line : absl::StrSplit(head, "\r\n")) {
      const size_t colon = line.find(": ");
      if (colon != absl::string_view::npos)
        answer.headers[absl::AsciiStrToLower(line.substr(0, colon))] = std::string(line.substr(colon + 2));
    }
    return answer;
  }

 private:
  api::RawClient client_;
  int interims_ = 0;
};

// A node that gives others what it has, and fetches for them: the daemon's parts, wired as there. Its members
// are named a to d.
class HomeNode {
 public:
  HomeNode() = default;
  ~HomeNode() { Stop(); }

  void Start(const std::string& docker_config = "", const std::string& allow = "*",
             PeerTrust trust = PeerTrust::kUnproven) {
    index::DiskStoreOptions store_options{
        .data_dir = temp_.path(), .telemetry = telemetry_, .file_system = disk_};
    if (imports_) {
      store_options.content_dir = content_.path();
      // What the test has just written counts as old enough.
      store_options.wall_clock_ms = [] { return SystemWallClockMs() + 10'000; };
    }
    store_ = *index::DiskStore::OpenStore(std::move(store_options));
    core_ = std::make_unique<AsioExecutor>("core", 1);
    io_ = std::make_unique<AsioExecutor>("io", 4);
    p2p::RegistryOptions options;
    options.retries_max = retries_max_;
    options.breaker_failures_max = 1000;
    options.not_found_ttl = Duration(0);
    options.docker_config_path = docker_config;
    registry_ =
        std::make_unique<p2p::RegistryClient>(p2p::RegistryClient::Parts{clock_, *io_, telemetry_}, options);
    source_ = std::make_unique<p2p::OriginSource>(
        p2p::OriginSource::Parts{*registry_, *store_, clock_, *io_, telemetry_});
    verifier_ = std::make_unique<p2p::RecipeVerifier>(*store_, p2p::kRecipeCacheBytesDefault, &leaves_);
    sources_ = std::make_unique<FixedSources>(
        std::vector<FixedSources::Source>{{SourceRank::kOrigin, source_.get()}});
    cache_ = std::make_unique<BlobCache>(
        BlobCache::Parts{
            clock_, *core_, *io_, *store_, *verifier_, *sources_, telemetry_, nullptr, {}, flows_.get()},
        BlobCacheLimits{});
    allowed_ = std::make_unique<p2p::AllowList>(*p2p::AllowList::Create(std::vector<std::string>{allow}));
    spreader_ = std::make_shared<p2p::Spreader>(clock_, [this](const std::string& name) {
      const std::lock_guard lock(mutex_);
      return members_.contains(name) ? std::optional<std::string>("") : std::nullopt;
    });
    if (imports_)
      imported_ = std::make_unique<ImportedRights>(ImportedRights::Parts{clock_, *io_, *store_, *registry_});
    std::function<bool(const Digest&, const BlobOrigin&, uint64_t, Task)> know_imported;
    if (imported_) {
      know_imported = [this](const Digest& digest, const BlobOrigin& origin, uint64_t size, Task then) {
        return imported_->Know(digest, origin, size, std::move(then));
      };
    }
    home_ = std::make_shared<HomeBlobs>(HomeBlobs::Parts{
        clock_, *io_, *store_, *cache_, *allowed_, spreader_,
        [this](const std::string& registry) { return registry_ && registry_->AsksForPatience(registry); },
        name_, trust, nullptr,
        [this](const std::shared_ptr<Blob>&, const std::string&, MemberRecipes::Then then) {
          if (!recipe_comes_) {
            std::move(then)(provable_);
            return true;
          }
          io_->Post([this, then = std::move(then)]() mutable { std::move(then)(provable_ = true); });
          return false;
        },
        know_imported, flows_});
    home_->WatchFlows();
    manifests_ = std::make_unique<ManifestCache>(temp_.path() + "/manifests");
    registry_documents_ =
        std::make_unique<RegistryDocuments>(clock_, *io_, *registry_, RegistryDocuments::kKeep);
    std::optional<NodePeerDocuments::Home> home;
    if (trust == PeerTrust::kProven) {
      home.emplace(
          NodePeerDocuments::Home{*registry_documents_, *allowed_, *io_, ImageDocuments::Tags::kFromHome});
    }
    documents_ = std::make_unique<NodePeerDocuments>(*store_, *manifests_, home, trust);
    api::HttpRoutes routes;
    api::AddPeerRoutes(routes, {*store_, *store_, *store_, *documents_, *io_, telemetry_, clock_, nullptr,
                                nullptr, home_.get(), "this-node", trust});
    server_ = std::make_unique<api::HttpServer>(std::move(routes), api::HttpLimits{});
    EXPECT_TRUE(server_->Start("127.0.0.1:0").ok());
  }
  // In the daemon's order.
  void Stop() {
    if (server_) server_->Stop();
    if (core_) core_->Stop();
    if (registry_) registry_->Stop();
    if (io_) io_->Stop();
    registry_.reset();
    cache_.reset();
    if (store_) store_->Stop();
    server_.reset();
    io_.reset();
    core_.reset();
    home_.reset();
    imported_.reset();
    spreader_.reset();
    source_.reset();
    store_.reset();
  }

  uint16_t port() const { return server_->port(); }

  uint32_t retries_max_ = 0;                // of requests to registries
  std::string name_ = "this";               // as a member
  std::atomic<bool> provable_ = true;       // whether what members send can be proven here
  std::atomic<bool> recipe_comes_ = false;  // from who asks, a while later
  bool imports_ = false;                    // what content_ holds, as containerd's content store has it
  std::mutex mutex_;
  std::set<std::string> members_ = {"a", "b", "c", "d"};  // guarded by mutex_
  index::TempDir temp_, content_;
  index::FaultyFileSystem disk_;  // under the store
  Telemetry telemetry_;
  SteadyClock clock_;
  const std::shared_ptr<ChunkFlows> flows_ = std::make_shared<ChunkFlows>(clock_);
  p2p::LeafCache leaves_;
  std::unique_ptr<index::DiskStore> store_;
  std::unique_ptr<AsioExecutor> core_, io_;
  std::unique_ptr<p2p::RegistryClient> registry_;
  std::unique_ptr<p2p::OriginSource> source_;
  std::unique_ptr<p2p::RecipeVerifier> verifier_;
  std::unique_ptr<FixedSources> sources_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<p2p::AllowList> allowed_;
  std::shared_ptr<p2p::Spreader> spreader_;
  std::unique_ptr<ImportedRights> imported_;
  std::shared_ptr<HomeBlobs> home_;
  std::unique_ptr<ManifestCache> manifests_;
  std::unique_ptr<RegistryDocuments> registry_documents_;
  std::unique_ptr<NodePeerDocuments> documents_;
  std::unique_ptr<api::HttpServer> server_;
};

}  // namespace sluice
