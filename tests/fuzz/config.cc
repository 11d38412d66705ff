#include "node/daemon/config.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "node/daemon/units.h"

// What is taken must be shown so that it reads back the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (const auto bytes = sluice::ParseSize(text);
      bytes.ok() && *sluice::ParseSize(sluice::FormatSize(*bytes)) != *bytes) {
    std::abort();
  }
  (void)sluice::ParseDuration(text);
  sluice::ConfigSources sources;
  for (const sluice::Setting& setting : sluice::Settings()) {
    sources.flags = {{setting.key, text}};
    const absl::StatusOr<sluice::Config> config = sluice::LoadConfig(sources);
    if (config.ok() && sluice::FormatConfig(*config).empty()) std::abort();
  }
  return 0;
}
