#include "node/chunk_memory.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sluice {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

}  // namespace

ChunkMemory& ChunkMemory::Shared() {
  static auto* const shared = new ChunkMemory;
  return *shared;
}

std::shared_ptr<std::byte[]> ChunkMemory::Take(size_t length) {
  if (length < kLengthMin || length > kKeptMax || kIsSanitized)
    return std::shared_ptr<std::byte[]>(new std::byte[length]);
  std::unique_ptr<std::byte[]> bytes;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(),
                                    [&](const Block& block) { return block.length == length; });
    if (found != kept_.rend()) {
      bytes = std::move(found->bytes);
      kept_bytes_ -= length;
      kept_.erase(std::next(found).base());
    }
  }
  if (!bytes) bytes.reset(new std::byte[length]);
  return {bytes.release(), [this, length](std::byte* gone) {
            Keep({length, std::unique_ptr<std::byte[]>(gone)});
          }};
}

void ChunkMemory::Keep(Block block) {
  std::vector<Block> dropped;  // without the lock
  const std::lock_guard lock(mutex_);
  kept_bytes_ += block.length;
  kept_.push_back(std::move(block));
  size_t count = 0;
  for (; kept_bytes_ > kKeptMax; ++count) kept_bytes_ -= kept_[count].length;
  const auto end = kept_.begin() + static_cast<std::ptrdiff_t>(count);
  std::move(kept_.begin(), end, std::back_inserter(dropped));
  kept_.erase(kept_.begin(), end);
}

size_t ChunkMemory::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace sluice
