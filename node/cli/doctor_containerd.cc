#include "node/cli/doctor_containerd.h"

#include <fstream>
#include <sstream>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "index/content_files.h"
#include "node/cli/runtime_files.h"

namespace sluice::cli {
namespace {

Check CheckContent(const Config& config) {
  Check check{"containerd's content can be read", Check::Result::kHolds, {}, {}};
  const auto files = index::ContentFiles(config.store_containerd_content).List();
  if (files.ok()) {
    check.detail = absl::StrCat(files->size(), " blobs in ", config.store_containerd_content);
    return check;
  }
  check.result = Check::Result::kFails;
  check.detail = std::string(files.status().message());
  check.remedy =
      "set store.containerdContent to the folder io.containerd.content.v1.content below containerd's root, "
      "and run "
      "sluiced as root; containerd makes it with its first pull";
  return check;
}

Check CheckKept(const std::string& containerd_config) {
  Check check{"containerd keeps the layers that it has unpacked", Check::Result::kHolds, {}, {}};
  std::ifstream in(containerd_config, std::ios::binary);
  std::ostringstream text;
  if (in && in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  if (!DiscardsUnpackedLayers(text.str())) return check;
  check.result = Check::Result::kFails;
  check.detail =
      absl::StrCat(containerd_config,
                   " sets discard_unpacked_layers = true: each layer goes once it is unpacked, and other "
                   "nodes get none of what containerd has pulled by itself");
  check.remedy =
      "set discard_unpacked_layers = false and restart containerd; what it pulls from then on stays";
  return check;
}

}  // namespace

std::vector<Check> CheckContainerd(const Config& config, const std::string& containerd_config) {
  if (!config.store_import_containerd) return {};
  return {CheckContent(config), CheckKept(containerd_config)};
}

}  // namespace sluice::cli
