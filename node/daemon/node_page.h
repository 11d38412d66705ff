#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/http/http_server.h"
#include "index/disk_store.h"
#include "node/blob_cache.h"
#include "node/daemon/asio_executor.h"
#include "node/daemon/log.h"
#include "node/daemon/mounter.h"
#include "node/daemon/node_admin.h"
#include "node/daemon/node_page_json.h"
#include "node/daemon/peer_admin.h"
#include "node/daemon/source_rates.h"
#include "node/telemetry.h"

namespace sluice {

// The node's own page for people, at / of the operations listener, and what it shows, at /node.json: mounts
// with what is present of each blob, rates, readers that wait, queues, other nodes, the last errors.
//
// Whoever can connect sees it, so names (images, paths, digests, nodes, addresses) and what was logged are
// told as NamesRule says. Everything is gathered on a thread of its own, for all who look, and at most twice
// a second.
//
// Thread-safe.
class NodePage {
 public:
  // When names are told. kLoopback: if the listener is on a loopback address, and the client has named it by
  // one, so that no other site's page that a browser on this machine shows is told them by DNS.
  enum class NamesRule { kLoopback, kAlways, kNever };
  struct Parts {
    const Clock& clock;
    BlobCache& cache;
    const index::DiskStore& store;
    Mounter& mounter;
    StatusAdmin& status;
    PeerAdmin& peers;
    const Telemetry& telemetry;
    const DaemonLog& log;
  };
  struct Options {
    std::string listen;  // the operations listener's host:port
    NamesRule names = NamesRule::kLoopback;
  };
  // Clients that wait at once; beyond: 503.
  static constexpr size_t kWaitingMax = 256;

  // The parts outlive it; the cache's loop may end before it.
  NodePage(const Parts& parts, Options options);
  ~NodePage() { Stop(); }

  // It outlives the server.
  void AddRoutes(api::HttpRoutes& routes);
  // Idempotent. The parts are not used after it.
  void Stop() { thread_.Stop(); }

 private:
  struct Shown {
    std::string json;
    std::optional<Instant> made;
  };
  using Waiting = std::pair<PageNames, api::HttpResponder>;

  PageNames NamesFor(const api::HttpRequest& request) const;
  void OnRequest(const api::HttpRequest& request, api::HttpResponder responder);

  // All of them on thread_.
  void Sample();
  void Want(PageNames names, api::HttpResponder responder);
  void Gather(uint64_t round, std::optional<CacheActivity> activity);
  PageFacts Facts(std::optional<CacheActivity> activity);
  std::vector<PageMount> Mounts(const std::optional<CacheActivity>& activity);
  PageBlob Describe(const BlobKey& key, const api::BlobPresence& presence,
                    const std::optional<CacheActivity>& activity) const;
  void Answer(Waiting waiting);

  // Constant after construction.
  const Parts parts_;
  const NamesRule names_;
  const bool on_loopback_;
  const std::string policy_;  // Content-Security-Policy of the page

  std::atomic<size_t> waiting_count_{0};

  // Owned by thread_.
  SourceRates rates_;
  std::array<Shown, 2> shown_;  // by PageNames
  std::vector<Waiting> waiting_;
  uint64_t round_ = 0;  // of gathering
  bool gathering_ = false;

  AsioExecutor thread_;  // its tasks use all of the above
};

}  // namespace sluice
