#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace sluice {

// Memory for chunks on their way. What was let go of is kept and used again, up to a bound: to get a fresh
// page of the kernel costs as much as to copy one, and a chunk has many. Sanitized builds keep none, so that
// what is used too late is seen.
//
// Thread-safe.
class ChunkMemory {
 public:
  static constexpr size_t kKeptMax = 8 << 20;     // bytes; beyond, what was let go of first goes
  static constexpr size_t kLengthMin = 64 << 10;  // shorter ones are not worth keeping

  // The process's. It lives for ever.
  static ChunkMemory& Shared();

  // Not initialised; may outlive its last user's thread, and goes back to this, which must outlive it.
  std::shared_ptr<std::byte[]> Take(size_t length);

  size_t kept_bytes() const;

 private:
  struct Block {
    size_t length;
    std::unique_ptr<std::byte[]> bytes;
  };

  void Keep(Block block);

  mutable std::mutex mutex_;  // guards what follows
  std::vector<Block> kept_;   // the newest last
  size_t kept_bytes_ = 0;
};

}  // namespace sluice
