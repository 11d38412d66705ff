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

}  // namespace

uint64_t StripeBytes(uint64_t blob_size) {
  return std::clamp(std::bit_floor(blob_size / kStripesPerBlob), kStripeMin, kStripeMax);
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

}  // namespace sluice::p2p
