#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/fetch_handle.h"
#include "node/image/progress.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/registry_client.h"

namespace sluice {

// Downloads the layers of an image to files, in their order, each while the one before it is read: at most
// two lie in the directory, unless who reads them leaves more there.
//
// One thread at a time; the downloads run on a thread of its own.
class LayerFetcher {
 public:
  // Begins with the first. The registry, the progress and the directory outlive the fetcher.
  LayerFetcher(p2p::RegistryClient& registry, BlobOrigin origin, std::vector<p2p::Descriptor> layers,
               std::string directory, ProgressSink& progress);
  // Cancels what is under way, and waits until it has ended.
  ~LayerFetcher();
  LayerFetcher(const LayerFetcher&) = delete;
  LayerFetcher& operator=(const LayerFetcher&) = delete;

  // The file of the next layer, "layer-N", as soon as it is whole; it is the caller's then, and the layer
  // after it is begun. Waiting is a step of the progress; what runs ahead is not shown. Errors: those of
  // DownloadBlob, of this layer. The fetcher is of no use after an error.
  // REQUIRES: called at most once for each layer
  absl::StatusOr<std::string> Next();

 private:
  void Begin();
  void Run(const p2p::Descriptor& layer, const std::string& path);
  void Advance(uint64_t bytes);
  void Watch(std::shared_ptr<FetchControl> request);

  p2p::RegistryClient& registry_;
  const BlobOrigin origin_;
  const std::vector<p2p::Descriptor> layers_;
  const std::string directory_;
  ProgressSink& progress_;
  size_t next_ = 0;  // that Next gives, and that is under way
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool ended_ = true;
  absl::Status status_;  // of the download that has ended
  uint64_t bytes_ = 0;   // that are there of it
  bool shown_ = false;   // somebody waits for it
  bool cancelled_ = false;
  std::shared_ptr<FetchControl> request_;  // the last that was begun
};

}  // namespace sluice
