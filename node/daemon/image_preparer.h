#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/start_report.h"
#include "index/disk_store.h"
#include "node/blob.h"
#include "node/cancel_check.h"
#include "node/chunk_sink.h"
#include "node/chunk_verifier.h"
#include "node/daemon/background_fill.h"
#include "node/daemon/image_documents.h"
#include "node/daemon/image_resolver.h"
#include "node/daemon/range_fill.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/origin_access.h"
#include "p2p/cluster/peer_documents.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/origin_source.h"
#include "p2p/registry/stored_reader.h"

namespace sluice {

// DataLoss: what is said of a blob that did not match its digest.
absl::Status RefusedBlob(const Digest& digest);

// An image whose bootstrap is on disk for good and whose blobs are registered. While this lives, none of them
// is evicted.
struct PreparedImage {
  Blob::Lease bootstrap;
  std::vector<Blob::Lease> blobs;  // in the order of the image's
  api::PrepareTimes times = {};
};

// How long to go on, and who is told on the way.
struct PrepareBounds {
  using OnBlobs = std::function<void(const std::vector<std::shared_ptr<Blob>>&)>;

  Instant deadline;
  CancelCheck cancelled;  // once true, the call ends soon with Cancelled
  // Told once of the blobs, in the image's order, when they may be read: registered, leased by the call, and
  // with what proves their chunks, where it can be had. On the caller's thread, while the bootstrap may still
  // be on its way: the call may fail after that.
  OnBlobs on_blobs = nullptr;
};

// Port: from a reference to what must be there before the image is mounted, or a blob alone is read.
//
// Thread-safe.
class ImagePreparer {
 public:
  virtual ~ImagePreparer() = default;

  // The reference with its defaults written out, if this node may ask for it. Does not block.
  // Errors: InvalidArgument (no reference), PermissionDenied (the allow-list).
  virtual absl::StatusOr<std::string> Check(const std::string& reference) const = 0;

  // Blocks on the registry. Errors: those of ImageResolver::Resolve.
  virtual absl::StatusOr<ResolvedImage> Resolve(const std::string& reference,
                                                const p2p::Platform& platform) = 0;

  // Fetches recipes and bootstrap at the same time, checks the bootstrap against the image and registers the
  // blobs. Blocks on
  // registry and disk. Errors: InvalidArgument (the image contradicts itself or what is known of its blobs,
  // or its bootstrap is too large), DataLoss (a digest does not hold), DeadlineExceeded, Cancelled,
  // Unavailable, ResourceExhausted, and what else the registry said.
  virtual absl::StatusOr<PreparedImage> Prepare(const ResolvedImage& image, const PrepareBounds& bounds) = 0;

  // The blob that `reference`, "registry/repository@digest", names in place of a manifest. `size` is what its
  // asker believes, 0 for nothing. Blocks on the registry. Errors: InvalidArgument (reference, or it has
  // another size, or none), PermissionDenied (the allow-list, the registry), and those of RegistryClient.
  virtual absl::StatusOr<BlobSpec> FindBlob(const std::string& reference, uint64_t size) = 0;

  // Registers what was found so. Blocks on registry and disk. Errors: as Prepare.
  virtual absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec& blob, const PrepareBounds& bounds) = 0;
};

// Prepares images in the node's store.
class StoreImagePreparer final : public ImagePreparer {
 public:
  struct Parts {
    const Clock& clock;
    index::DiskStore& store;
    BackgroundFill& fills;
    ChunkVerifier& verifier;
    ImageResolver& resolver;
    ImageDocuments& documents;
    ChunkSink& sink;
    AccessLedger& ledger;
    const p2p::PeerDocumentClient* peers;  // null on a node without members
    p2p::OriginSource& origin;
    p2p::StoredReaderParts stored_reader;
    // Discards what the kernel has of a blob apart from the store; on the caller's thread.
    std::function<absl::Status(const BlobKey&)> discard_copies;
    // By whose right what is not public is brought, as all of the parts that ask registries ask by it;
    // absent: this node's own.
    struct ByRight {
      Grant grant;
      RangeFill::Parts fill;
    };
    std::optional<ByRight> by_right = std::nullopt;
  };

  // The parts outlive this.
  explicit StoreImagePreparer(Parts parts) : parts_(std::move(parts)) {}

  absl::StatusOr<std::string> Check(const std::string& reference) const override;
  absl::StatusOr<ResolvedImage> Resolve(const std::string& reference, const p2p::Platform& platform) override;
  absl::StatusOr<PreparedImage> Prepare(const ResolvedImage& image, const PrepareBounds& bounds) override;
  absl::StatusOr<BlobSpec> FindBlob(const std::string& reference, uint64_t size) override;
  absl::StatusOr<Blob::Lease> PrepareBlob(const BlobSpec& blob, const PrepareBounds& bounds) override;

 private:
  std::optional<BlobSpec> KnownOf(const BlobOrigin& origin, const Digest& digest) const;
  void CheckFiles(const Digest& digest);
  absl::StatusOr<Blob::Lease> Open(const BlobSpec& spec, Instant deadline);
  absl::Status ProveRight(const std::shared_ptr<Blob>& blob, const BlobOrigin& origin, Instant deadline);
  absl::StatusOr<OriginAccess> AskForSample(const std::shared_ptr<Blob>& blob, const BlobOrigin& origin,
                                            Instant deadline);
  absl::StatusOr<OriginAccess> AskForWhole(const Blob& blob, const BlobOrigin& origin,
                                           const StoredForm& stored, Instant deadline);
  absl::StatusOr<ImageResolver::Given> AskForBytes(const std::shared_ptr<Blob>& blob,
                                                   const BlobOrigin& origin, ByteRange range,
                                                   Instant deadline);
  absl::StatusOr<PreparedImage> PrepareBlobs(const ResolvedImage& image, const PrepareBounds& bounds);
  absl::StatusOr<Blob::Lease> PrepareBootstrap(const BlobSpec& spec, const std::vector<BlobSpec>& blobs,
                                               const PrepareBounds& bounds);
  void Drop(Blob::Lease bootstrap);
  absl::Status MakeSettled(Blob::Lease& bootstrap, const PrepareBounds& bounds);
  void TakeFromMembers(Blob::Lease& bootstrap, Instant deadline, p2p::PeerDocumentClient::From from);
  absl::Status TakeFromRegistry(const std::shared_ptr<Blob>& bootstrap, const PrepareBounds& bounds);
  absl::Status TakeWhole(const std::shared_ptr<Blob>& bootstrap, const BlobOrigin& origin,
                         const StoredForm& stored, const PrepareBounds& bounds);
  absl::Status TakeDocument(const std::shared_ptr<Blob>& bootstrap, const BlobOrigin& origin,
                            const StoredForm& stored, const PrepareBounds& bounds);
  absl::Status Keep(const std::shared_ptr<Blob>& blob, ChunkIndex index, Buffer chunk, Evidence evidence,
                    SourceKind kind);
  absl::Status WaitForFill(const Blob& blob, const PrepareBounds& bounds);

  const Parts parts_;
};

}  // namespace sluice
