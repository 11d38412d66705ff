#pragma once

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "node/blob.h"
#include "node/chunk_verifier.h"
#include "tests/sim/lossy_disk.h"
#include "tests/sim/random.h"

// The blobs of a simulation, and what is right of them.
namespace sluice::sim {

inline Digest Sha256Of(std::span<const std::byte> bytes) {
  std::array<uint8_t, Digest::kBytes> hash{};
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), hash.data());
  return Digest(hash);
}

// A blob's bytes, and others in their place that a source may send. Neither has a page of zeros, nor do two
// chunks agree.
struct Sample {
  explicit Sample(uint64_t number) {
    Random random(number);
    const uint64_t size = random.Between(1, 9) * kChunkSizeMin + (random.Chance(50) ? random.Below(9000) : 0);
    for (std::vector<std::byte>* bytes : {&right, &wrong}) {
      bytes->resize(size);
      for (std::byte& byte : *bytes) byte = static_cast<std::byte>(random.Next());
    }
    spec = {Sha256Of(right), size, kChunkSizeMin, std::nullopt, {{"registry.test", "app"}}};
  }

  // The spec with the root that its descriptor vouches for.
  BlobSpec Rooted() const {
    BlobSpec rooted = spec;
    rooted.root = Sha256Of(wrong);  // the simulation's verifier only asks whether there is one
    return rooted;
  }
  ChunkGeometry geometry() const { return {spec.size, spec.chunk_size}; }
  std::span<const std::byte> Right(ByteRange range) const { return Part(right, range); }
  std::span<const std::byte> Wrong(ByteRange range) const { return Part(wrong, range); }

  std::vector<std::byte> right;
  std::vector<std::byte> wrong;
  BlobSpec spec;
  std::set<ChunkIndex> misled;  // chunks whose wrong bytes nobody could tell: there was no root

 private:
  static std::span<const std::byte> Part(const std::vector<std::byte>& bytes, ByteRange range) {
    return std::span(bytes).subspan(range.offset, range.length);
  }
};

using Samples = std::map<Digest, Sample>;

inline bool Same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// Holds chunks of blobs with a root against the right bytes, and passes all others.
class SampleVerifier final : public ChunkVerifier {
 public:
  SampleVerifier(Samples& samples, LossyDisk& disk) : samples_(samples), disk_(disk) {}

  absl::StatusOr<Evidence> Verify(const Blob& blob, ChunkIndex index,
                                  std::span<const std::byte> bytes) override {
    if (disk_.Fires(disk_.faults.open)) return absl::UnavailableError("the recipe can't be read just now");
    Sample& sample = samples_.at(blob.digest());
    const bool right = Same(bytes, sample.Right(blob.geometry().RangeOf(index)));
    if (blob.facts()->root) {
      if (right) return Evidence::kVerified;
      return absl::DataLossError("the chunk is not what its recipe promises");
    }
    if (!right) sample.misled.insert(index);
    return Evidence::kUnverified;
  }

 private:
  Samples& samples_;
  LossyDisk& disk_;
};

}  // namespace sluice::sim
