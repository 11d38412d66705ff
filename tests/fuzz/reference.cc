#include "p2p/registry/reference.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "p2p/registry/allow_list.h"

using namespace sluice::p2p;

// What is taken reads back the same from its full form.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<ImageReference> reference = ImageReference::Parse(text);
  if (reference.ok()) {
    const absl::StatusOr<ImageReference> again = ImageReference::Parse(reference->ToString());
    if (!again.ok() || *again != *reference) std::abort();
  }
  const std::vector<std::string> patterns{text};
  const absl::StatusOr<AllowList> allowed = AllowList::Create(patterns);
  if (allowed.ok()) (void)allowed->Permits({"registry.example", "team/app"});
  return 0;
}
