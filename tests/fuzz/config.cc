#include "node/daemon/config.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "node/daemon/units.h"
#include "taken.h"

namespace {

sluice::fuzz::Parser size_parser("sizes");
sluice::fuzz::Parser time_parser("times");
sluice::fuzz::Parser flag_parser("settings by flag");
sluice::fuzz::Parser file_parser("configuration files");

void Require(bool holds) {
  if (!holds) std::abort();
}

// LoadConfig reads files by name; this one has no other.
absl::StatusOr<sluice::Config> LoadText(const std::string& text) {
  const int file = ::memfd_create("config", MFD_CLOEXEC);
  Require(file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  sluice::ConfigSources sources;
  sources.file = absl::StrCat("/proc/self/fd/", file);
  absl::StatusOr<sluice::Config> config = sluice::LoadConfig(sources);
  ::close(file);
  return config;
}

// YAML is text: what else a flag may hold (a path can be any bytes) has no place in it.
bool IsPlainText(const std::string& text) {
  for (const char c : text) {
    if (c < ' ' || c > '~') return false;
  }
  return true;
}

bool IsPlainText(const sluice::Config& config) {
  for (const sluice::Setting& setting : sluice::Settings()) {
    for (const std::string& value : setting.get(config)) {
      if (!IsPlainText(value)) return false;
    }
  }
  return true;
}

void RequireShownReadsBack(const sluice::Config& config) {
  if (!IsPlainText(config)) return;
  const std::string shown = sluice::FormatConfig(config);
  const absl::StatusOr<sluice::Config> again = LoadText(shown);
  Require(again.ok() && *again == config);
  Require(sluice::FormatConfig(*again) == shown);
}

}  // namespace

// What is taken must be shown so that it reads back the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (const auto bytes = sluice::ParseSize(text); bytes.ok()) {
    size_parser.Took();
    const auto again = sluice::ParseSize(sluice::FormatSize(*bytes));
    Require(again.ok() && *again == *bytes);
  }
  if (const auto duration = sluice::ParseDuration(text); duration.ok()) {
    time_parser.Took();
    Require(*duration >= sluice::Duration::zero());
    const auto again = sluice::ParseDuration(sluice::FormatDuration(*duration));
    Require(again.ok() && *again == *duration);
  }
  // All settings that take the text have it at once: showing and reading back is what takes time here.
  sluice::ConfigSources sources;
  for (const sluice::Setting& setting : sluice::Settings()) {
    if (setting.key == "api.prefetchSocket") continue;  // must differ from api.socket
    sluice::ConfigSources alone;
    alone.flags = {{setting.key, text}};
    if (!sluice::LoadConfig(alone).ok()) continue;
    flag_parser.Took();
    sources.flags[setting.key] = text;
  }
  const absl::StatusOr<sluice::Config> all = sluice::LoadConfig(sources);
  Require(all.ok());
  RequireShownReadsBack(*all);
  if (const absl::StatusOr<sluice::Config> config = LoadText(text); config.ok()) {
    file_parser.Took();
    RequireShownReadsBack(*config);
  }
  return 0;
}
