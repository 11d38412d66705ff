#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "ondemand/keeper/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The parsers want memory that is aligned for uint64_t.
  std::vector<uint64_t> words(size / 8 + 1);
  std::memcpy(words.data(), data, size);
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(words.data()), size);
  (void)sluice::keeper::ParseRequest(bytes);
  (void)sluice::keeper::ParseReply(bytes);
  return 0;
}
