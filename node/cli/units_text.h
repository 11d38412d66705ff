#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::cli {

// "0 B", "999 B", "1.5 KiB", "310.0 MiB", ... for people.
std::string BytesText(uint64_t bytes);

// "62.0 MiB (20 %)"; rounded down, so that 100 % means all of it.
std::string ShareText(uint64_t part, uint64_t whole);

// "41s", "3m 20s", "5h 2m", "12d 4h".
std::string SecondsText(int64_t seconds);

// A name on one line: control characters, of which file names may be full, as \xNN.
std::string OneLine(std::string_view text);

}  // namespace sluice::cli
