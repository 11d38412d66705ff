#include "p2p/cluster/assignment.h"

#include <algorithm>
#include <bit>
#include <string>

#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

constexpr uint64_t kStripeMin = 256 << 10;
constexpr uint64_t kStripeMax = 4 << 20;
constexpr uint64_t kStripesPerBlob = 64;

// 2^64 over the golden ratio: consecutive numbers, multiplied by it, lie far apart.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

// A bijection in which every bit of the input moves every bit of the output (the finalizer of SplitMix64).
uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

uint64_t FirstEight(const Digest& hash) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value = value << 8 | hash.bytes()[i];
  return value;
}

// No floating point: two builds must agree. The product needs 128 bits.
__extension__ using Wide = unsigned __int128;

// How many stripes each member may take.
std::vector<uint64_t> CapsOf(uint64_t blob_key, uint64_t stripe_count,
                             std::span<const uint64_t> member_keys) {
  const uint64_t dividend = 5 * stripe_count;
  const uint64_t divisor = 4 * member_keys.size();
  std::vector<uint64_t> caps(member_keys.size(), std::max<uint64_t>(dividend / divisor, 1));
  if (dividend < divisor) return caps;
  const Wide fraction = Wide{dividend % divisor} << 64;
  for (size_t i = 0; i < caps.size(); ++i) {
    if (Wide{BlobScore(blob_key, member_keys[i])} * divisor < fraction) ++caps[i];
  }
  return caps;
}

}  // namespace

uint64_t StripeBytes(uint64_t blob_size) {
  return std::clamp(std::bit_floor(blob_size / kStripesPerBlob), kStripeMin, kStripeMax);
}

uint64_t StripeCount(uint64_t blob_size) {
  const uint64_t bytes = StripeBytes(blob_size);
  return std::max<uint64_t>(blob_size / bytes + (blob_size % bytes != 0), 1);
}

ChunkSpan StripeAround(const ChunkGeometry& geometry, ChunkIndex chunk) {
  const uint64_t bytes = StripeBytes(geometry.size());
  const uint64_t stripe = geometry.RangeOf(chunk).offset / bytes;
  const auto first_from = [&](uint64_t offset) {
    const uint64_t count = (offset + geometry.chunk_size() - 1) / geometry.chunk_size();
    return static_cast<uint32_t>(std::min<uint64_t>(count, geometry.chunk_count()));
  };
  const uint32_t first = first_from(stripe * bytes);
  return {ChunkIndex(first), first_from((stripe + 1) * bytes) - first};
}

uint64_t ScoreKeyOf(const Digest& blob) {
  std::string bytes(1, static_cast<char>(kProtocolMajor));
  bytes.append(reinterpret_cast<const char*>(blob.bytes().data()), Digest::kBytes);
  return FirstEight(Sha256::Of(bytes));
}

uint64_t ScoreKeyOf(std::string_view member) {
  return FirstEight(Sha256::Of(member));
}

uint64_t Score(uint64_t blob_key, uint64_t stripe, uint64_t member_key) {
  return Mix(Mix(blob_key + kGolden * (stripe + 1)) ^ member_key);
}

uint64_t BlobScore(uint64_t blob_key, uint64_t member_key) {
  return Mix(Mix(blob_key) ^ member_key);
}

bool OutScores(const Digest& blob, uint64_t stripe, std::string_view member, std::string_view other) {
  const uint64_t blob_key = ScoreKeyOf(blob);
  const uint64_t one = Score(blob_key, stripe, ScoreKeyOf(member));
  const uint64_t two = Score(blob_key, stripe, ScoreKeyOf(other));
  return one != two ? one > two : member < other;
}

std::vector<MemberIndex> AssignHomes(uint64_t blob_key, uint64_t stripe_count,
                                     std::span<const uint64_t> member_keys) {
  const std::vector<uint64_t> caps = CapsOf(blob_key, stripe_count, member_keys);
  std::vector<uint64_t> loads(member_keys.size());
  size_t below_cap = member_keys.size();
  std::vector<MemberIndex> homes(stripe_count);
  for (uint64_t stripe = 0; stripe < stripe_count; ++stripe) {
    const uint64_t least = below_cap == 0 ? *std::min_element(loads.begin(), loads.end()) : uint64_t{0};
    size_t best = member_keys.size();
    uint64_t best_score = 0;
    for (size_t i = 0; i < member_keys.size(); ++i) {
      if (below_cap == 0 ? loads[i] != least : loads[i] >= caps[i]) continue;
      const uint64_t score = Score(blob_key, stripe, member_keys[i]);
      // Of equals the first stays: it has the lesser name.
      if (best < member_keys.size() && score <= best_score) continue;
      best = i;
      best_score = score;
    }
    homes[stripe] = static_cast<MemberIndex>(best);
    if (++loads[best] == caps[best]) --below_cap;
  }
  return homes;
}

}  // namespace sluice::p2p
