#include "p2p/registry/reference.h"

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "p2p/registry/allow_list.h"
#include "taken.h"

using namespace sluice::p2p;

namespace {

sluice::fuzz::Parser reference_parser("references");
sluice::fuzz::Parser pattern_parser("patterns");

}  // namespace

// What is taken reads back the same from its full form.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<ImageReference> reference = ImageReference::Parse(text);
  if (reference.ok()) {
    reference_parser.Took();
    const absl::StatusOr<ImageReference> again = ImageReference::Parse(reference->ToString());
    if (!again.ok() || *again != *reference) std::abort();
  }
  const std::vector<std::string> patterns{text};
  const absl::StatusOr<AllowList> allowed = AllowList::Create(patterns);
  if (allowed.ok()) {
    pattern_parser.Took();
    const bool by_itself = allowed->Permits({"registry.example", "team/app"}).ok();
    // More patterns never permit less.
    const std::vector<std::string> more{text, "other.example/*"};
    const absl::StatusOr<AllowList> wider = AllowList::Create(more);
    if (!wider.ok() || (by_itself && !wider->Permits({"registry.example", "team/app"}).ok())) std::abort();
    if (!wider->Permits({"other.example", "team/app"}).ok()) std::abort();
  }
  return 0;
}
