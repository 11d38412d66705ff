#pragma once

namespace sluice::keeper {

// Writes one line "sluice-keeper: ..." to standard error. Thread-safe; never fails.
[[gnu::format(printf, 1, 2)]] void Log(const char* format, ...);

}  // namespace sluice::keeper
