#include "node/evictor.h"

#include <algorithm>

namespace sluice {

std::vector<EvictionCandidate> ChooseEvictions(std::vector<EvictionCandidate> candidates,
                                               uint64_t bytes_to_free) {
  std::erase_if(candidates, [](const EvictionCandidate& candidate) { return candidate.bytes == 0; });
  std::sort(candidates.begin(), candidates.end(), [](const EvictionCandidate& a, const EvictionCandidate& b) {
    return a.last_used_ms != b.last_used_ms ? a.last_used_ms < b.last_used_ms : a.key < b.key;
  });
  uint64_t freed = 0;
  auto last = candidates.begin();
  while (last != candidates.end() && freed < bytes_to_free) freed += (last++)->bytes;
  candidates.erase(last, candidates.end());
  return candidates;
}

}  // namespace sluice
