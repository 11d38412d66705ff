#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::sim {

// What a seed makes of itself: the same numbers on every machine (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 0x1234567) {}

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
  // In [0, bound). REQUIRES: bound > 0
  size_t Below(size_t bound) { return static_cast<size_t>(Next() % bound); }
  // In [low, high].
  size_t Between(size_t low, size_t high) { return low + Below(high - low + 1); }
  bool Chance(int percent) { return static_cast<int>(Below(100)) < percent; }

 private:
  uint64_t state_;
};

}  // namespace sluice::sim
