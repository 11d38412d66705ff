#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_reader.h"
#include "node/chunk_store.h"
#include "node/origin_access.h"
#include "node/telemetry.h"

namespace sluice::index {

// Stands for index/disk_store.h in a simulation, so that what is built over the store is the shipped code: it
// knows which chunks are present and has no bytes of any. Of a digest there is one blob, whoever claims what;
// all that is committed is proven, and nothing is taken away.
//
// One thread.
class DiskStore final : public ChunkStore, public BlobReader, public AccessLedger {
 public:
  absl::StatusOr<std::shared_ptr<Blob>> Open(const BlobSpec& spec) override {
    std::shared_ptr<Blob>& blob = blobs_[spec.digest];
    if (!blob) blob = std::make_shared<Blob>(spec);
    return blob;
  }
  std::shared_ptr<Blob> Find(const BlobKey& key) const override {
    const auto found = blobs_.find(key);
    return found == blobs_.end() ? nullptr : found->second;
  }
  std::vector<BlobKey> KeysOf(const Digest& digest) const {
    return blobs_.contains(digest) ? std::vector<BlobKey>{digest} : std::vector<BlobKey>();
  }
  absl::StatusOr<Blob::Lease> Acquire(const BlobKey& key) const override {
    const std::shared_ptr<Blob> blob = Find(key);
    if (!blob) return absl::NotFoundError("no such blob");
    return Blob::Lease(blob);
  }
  absl::Status Commit(Blob& blob, ChunkIndex index, std::span<const std::byte>, Evidence) override {
    blob.presence().Set(index);
    return absl::OkStatus();
  }
  absl::Status Revoke(Blob& blob, ChunkIndex index) override {
    blob.presence().Clear(index);
    return absl::OkStatus();
  }

  absl::StatusOr<std::shared_ptr<const BlobFile>> OpenFile(const BlobKey&) override {
    return absl::UnavailableError("it has no bytes");
  }
  bool AllProven(const Blob& blob, ChunkSpan span) const override { return blob.presence().AllPresent(span); }

  void NoteAccess(const BlobKey& key, const BlobOrigin&, OriginAccess access) override {
    access_[key] = Stronger(access_[key], access);
  }
  OriginAccess AccessOf(const BlobKey& key, const BlobOrigin&) const override {
    const auto found = access_.find(key);
    return found == access_.end() ? OriginAccess::kUnknown : found->second;
  }

  bool IsSettled(const BlobKey&) const { return false; }
  void Touch(const BlobKey&) {}
  absl::Status Evict(const BlobKey&, EvictReason) { return absl::FailedPreconditionError("nothing goes"); }

 private:
  absl::flat_hash_map<BlobKey, std::shared_ptr<Blob>> blobs_;
  absl::flat_hash_map<BlobKey, OriginAccess> access_;
};

}  // namespace sluice::index
