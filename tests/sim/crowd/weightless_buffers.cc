// Buffers have a size and no bytes: whatever chunk is on its way lies in the same memory. Else 1,000 nodes
// with some megabytes under way each would be all that the machine has, and copying them all that it does.
#include "tests/sim/crowd/weightless_buffers.h"

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

constexpr size_t kWeighed = 16 << 10;  // smaller arrays are others' and ordinary

alignas(64) std::byte the_bytes[sluice::sim::kWeightlessMax];

void* Allocate(size_t size) {
  if (size >= kWeighed && size <= sizeof the_bytes) return the_bytes;
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  std::abort();
}

void Free(void* memory) {
  if (memory != the_bytes) std::free(memory);
}

}  // namespace

namespace sluice::sim {

std::span<const std::byte> WeightlessBytes() {
  return the_bytes;
}

}  // namespace sluice::sim

void* operator new[](size_t size) {
  return Allocate(size);
}
void operator delete[](void* memory) noexcept {
  Free(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  Free(memory);
}
