#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/admin_backend.h"
#include "index/disk_store.h"
#include "node/chunk_verifier.h"
#include "node/daemon/log.h"
#include "node/daemon/mounter.h"
#include "node/daemon/peer_admin.h"
#include "node/daemon/prefetcher.h"
#include "node/executor.h"
#include "node/telemetry.h"

namespace sluice {

// What the API says of the node's blobs, and does to them: to all that is claimed of a digest.
//
// Thread-safe; blocks on disk.
class BlobAdmin final : public api::BlobBackend {
 public:
  // Discards what the kernel has of a blob apart from the store.
  using DiscardCopies = std::function<absl::Status(const BlobKey&)>;
  // Lets go of a blob that no mount uses any more.
  using Release = std::function<void(const BlobKey&)>;
  // Who holds a blob beside the mounts that are listed, for people; empty if nobody.
  using Holders = std::function<std::string(const BlobKey&)>;

  BlobAdmin(index::DiskStore& store, ChunkVerifier& verifier, Release release, DiscardCopies discard_copies,
            Holders holders)
      : store_(store),
        verifier_(verifier),
        release_(std::move(release)),
        discard_copies_(std::move(discard_copies)),
        holders_(std::move(holders)) {}

  absl::StatusOr<std::vector<api::BlobInfo>> ListBlobs(const api::BlobPageRequest& page) override;
  absl::StatusOr<api::BlobInfo> GetBlob(const Digest& digest) override;
  absl::StatusOr<std::string> GetBlobRecipe(const Digest& digest) override;
  absl::StatusOr<api::VerifyReport> VerifyBlob(const Digest& digest, const CancelCheck& cancelled,
                                               const api::OnVerifyProgress& on_progress) override;
  absl::StatusOr<uint64_t> EvictBlob(const Digest& digest) override;
  absl::Status SetPin(const Digest& digest, api::PinState state) override;

 private:
  api::BlobInfo Describe(const index::BlobInfo& info) const;
  absl::StatusOr<Digest> PlainOf(const Digest& digest) const;
  absl::StatusOr<index::BlobInfo> StatOf(const Digest& digest) const;
  absl::StatusOr<std::vector<BlobKey>> KeysOf(const Digest& digest) const;
  absl::StatusOr<uint64_t> EvictOne(const BlobKey& key);

  index::DiskStore& store_;
  ChunkVerifier& verifier_;
  const Release release_;
  const DiscardCopies discard_copies_;
  const Holders holders_;
};

// What the API says of the node as a whole.
//
// Thread-safe.
class StatusAdmin final : public api::StatusBackend {
 public:
  struct Facts {
    std::string version;
    std::string backend;
    std::string backend_reason;
    std::string data_directory;
    Instant started;
  };
  StatusAdmin(Facts facts, const Clock& clock, const index::DiskStore& store, const Mounter& mounter,
              const Telemetry& telemetry, const PeerAdmin& peers, DaemonLog& log, Prefetcher& hints,
              const ImageCounters& counters, std::function<void(api::DrainState)> on_drain)
      : facts_(std::move(facts)),
        clock_(clock),
        store_(store),
        mounter_(mounter),
        telemetry_(telemetry),
        peers_(peers),
        log_(log),
        hints_(hints),
        counters_(counters),
        on_drain_(std::move(on_drain)) {}

  absl::StatusOr<api::NodeStatus> GetStatus() override;
  api::LogLevel SetLogLevel(api::LogLevel level) override;
  size_t SetDrain(api::DrainState state) override;

 private:
  const Facts facts_;
  const Clock& clock_;
  const index::DiskStore& store_;
  const Mounter& mounter_;
  const Telemetry& telemetry_;
  const PeerAdmin& peers_;
  DaemonLog& log_;
  Prefetcher& hints_;
  const ImageCounters& counters_;
  const std::function<void(api::DrainState)> on_drain_;  // of what is brought in ahead beside hints
};

}  // namespace sluice
