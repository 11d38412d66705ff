#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "node/blob_key.h"
#include "node/digest.h"
#include "node/geometry.h"
#include "node/presence_map.h"

namespace sluice {

// A repository of a registry that is said to hold a blob, e.g. {"registry.example:5000", "team/app"}.
struct BlobOrigin {
  std::string registry;  // host[:port], as in the image reference
  std::string repository;

  friend auto operator<=>(const BlobOrigin&, const BlobOrigin&) = default;
};

// Where the seek table of a stored blob lies among its stored bytes, and what those must hash to.
struct SeekTablePlace {
  ByteRange range;
  Digest digest;

  friend bool operator==(const SeekTablePlace&, const SeekTablePlace&) = default;
};

// How a registry keeps a blob that it keeps compressed: each chunk a zstd frame of its own, one after the
// other, then the seek table. A blob of one chunk may do without the table.
struct StoredForm {
  Digest digest;  // of the stored bytes: by it the registry is asked
  uint64_t size = 0;
  std::optional<SeekTablePlace> seek_table;

  friend bool operator==(const StoredForm&, const StoredForm&) = default;
};

// Tells a blob's few origins apart, in whatever order they are listed; two may have the same.
uint16_t TagOf(const BlobOrigin& origin);

// What somebody says of a blob: all that must be known of it before its first byte is fetched. Until the
// whole blob was hashed it is a claim, and stands beside what others claim of the same digest.
struct BlobSpec {
  Digest digest;
  uint64_t size = 0;
  uint32_t chunk_size = kChunkSizeDefault;
  // The root of the blob's recipe (BEP 52 "pieces root") as its descriptor's annotation vouches for it; with
  // it the recipe is bound. Without it, chunks stay unverified until the whole blob has been hashed.
  std::optional<Digest> root;
  // Where to ask for it, in this order. The first is whose manifest says all this; none: this node itself.
  std::vector<BlobOrigin> origins;
  // How those of them keep it that don't keep it as it is.
  std::map<BlobOrigin, StoredForm> stored{};
  // Whether only another node says so, and no manifest that this one has seen: then it is nothing that
  // anybody on this host reads by (see ChunkStore::Open).
  bool is_hearsay = false;

  // How `origin` keeps it; null: plain.
  const StoredForm* StoredAt(const BlobOrigin& origin) const {
    const auto found = stored.find(origin);
    return found == stored.end() ? nullptr : &found->second;
  }
};

// A blob that this node knows: one object per key, shared by all rooms for as long as anyone uses it.
//
// Thread-safe.
class Blob {
 public:
  // A blob that is kept by its digest's own name.
  // REQUIRES: ChunkGeometry::Validate(spec.size, spec.chunk_size).ok(), spec.size > 0
  explicit Blob(BlobSpec spec);
  Blob(const BlobKey& key, BlobSpec spec);

  const BlobKey& key() const { return key_; }
  const Digest& digest() const { return digest_; }
  const ChunkGeometry& geometry() const { return geometry_; }

  // What is known of it now. What it points to never changes; it is replaced when a root or another origin
  // becomes known. Digest, size and chunk size stay.
  std::shared_ptr<const BlobSpec> facts() const;
  // REQUIRES: same digest, size and chunk size
  void SetFacts(BlobSpec facts);

  PresenceMap& presence() { return presence_; }
  const PresenceMap& presence() const { return presence_; }

  // Bytes of the chunks that are present.
  uint64_t present_bytes() const;

  // A refused blob failed its whole-blob digest (or lost its file while mounted): no byte of it may be served
  // again.
  bool refused() const { return refused_.load(std::memory_order_acquire); }
  // Clears all presence bits and refuses every later read.
  void Refuse();

  // Chunks that are present but under no bound recipe, so not yet proven.
  std::atomic<uint32_t>& unverified_count() { return unverified_count_; }
  const std::atomic<uint32_t>& unverified_count() const { return unverified_count_; }

  // A blob with leases (mounted, being filled, being served) is not evicted.
  class Lease {
   public:
    // Whether the holder reads the very file that is there now, whatever becomes of presence: a mount.
    enum class OfFile { kNo, kYes };

    Lease() = default;  // of nothing
    explicit Lease(std::shared_ptr<Blob> blob, OfFile of_file = OfFile::kNo)
        : blob_(std::move(blob)), of_file_(of_file) {
      ++blob_->leases_;
      if (of_file_ == OfFile::kYes) ++blob_->file_leases_;
    }
    Lease(Lease&& other) noexcept : blob_(std::move(other.blob_)), of_file_(other.of_file_) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(blob_, other.blob_);
      std::swap(of_file_, other.of_file_);
      return *this;
    }
    ~Lease() { Release(); }
    // Gives it back early.
    void Release() {
      if (blob_ && of_file_ == OfFile::kYes) --blob_->file_leases_;
      if (blob_) --blob_->leases_;
      blob_.reset();
    }
    Blob& blob() const { return *blob_; }
    const std::shared_ptr<Blob>& shared() const { return blob_; }

   private:
    std::shared_ptr<Blob> blob_;
    OfFile of_file_ = OfFile::kNo;
  };
  uint32_t lease_count() const { return leases_.load(std::memory_order_acquire); }
  // Of those, the ones of its file. While there are any, a file that was lost can't be made anew.
  uint32_t file_lease_count() const { return file_leases_.load(std::memory_order_acquire); }

 private:
  // Constant after construction.
  const BlobKey key_;
  const Digest digest_;
  const ChunkGeometry geometry_;

  mutable std::mutex facts_mutex_;
  std::shared_ptr<const BlobSpec> facts_;  // guarded by facts_mutex_

  PresenceMap presence_;
  std::atomic<bool> refused_{false};
  std::atomic<uint32_t> unverified_count_{0};
  std::atomic<uint32_t> leases_{0};
  std::atomic<uint32_t> file_leases_{0};
};

}  // namespace sluice
