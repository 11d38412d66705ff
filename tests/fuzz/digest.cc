#include "node/digest.h"

#include <cstdint>
#include <cstdlib>
#include <string>

#include "taken.h"

namespace {

sluice::fuzz::Parser parser("digests");

}  // namespace

// What is taken is printed back as it was.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<sluice::Digest> digest = sluice::Digest::Parse(text);
  if (!digest.ok()) return 0;
  parser.Took();
  if (digest->ToString() != text) std::abort();
  return 0;
}
