#pragma once

#include <string>

namespace sluice {

// Sets up spdlog's default logger: to stderr, level "debug", "info", "warn" or "error", as "text" or "json"
// lines. Not thread-safe; call it before any thread logs.
void SetUpLog(const std::string& level, const std::string& format);

}  // namespace sluice
