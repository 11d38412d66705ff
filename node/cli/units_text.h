#pragma once

#include <cstdint>
#include <string>

namespace sluice::cli {

// "0 B", "999 B", "1.5 KiB", "310.0 MiB", ... for people.
std::string BytesText(uint64_t bytes);

// "62.0 MiB (20 %)"; rounded down, so that 100 % means all of it.
std::string ShareText(uint64_t part, uint64_t whole);

// "41s", "3m 20s", "5h 2m", "12d 4h".
std::string SecondsText(int64_t seconds);

}  // namespace sluice::cli
