#include "tests/bench/start_trace.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace sluice::bench {
namespace {

constexpr uint64_t kGapMaxUs = 600'000'000;
constexpr uint64_t kOffsetMax = uint64_t{1} << 48;

absl::Status AtLine(size_t number, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what));
}

bool TakeNumber(absl::string_view& line, uint64_t max, uint64_t& value) {
  const auto [number, rest] =
      std::pair<absl::string_view, absl::string_view>(absl::StrSplit(line, absl::MaxSplits(' ', 1)));
  line = rest;
  return absl::SimpleAtoi(number, &value) && value <= max;
}

// Where it leads must not depend on what else there is than the image.
bool IsBelowRoot(absl::string_view path) {
  if (path.empty()) return false;
  for (const absl::string_view name : absl::StrSplit(path, '/')) {
    if (name.empty() || name == "." || name == "..") return false;
  }
  return true;
}

}  // namespace

std::chrono::microseconds StartTrace::OwnTime() const {
  std::chrono::microseconds sum = end_gap;
  for (const TraceRead& read : reads) sum += read.gap;
  return sum;
}

uint64_t StartTrace::Bytes() const {
  uint64_t sum = 0;
  for (const TraceRead& read : reads) sum += read.length;
  return sum;
}

absl::StatusOr<StartTrace> ParseTrace(absl::string_view text) {
  StartTrace trace;
  bool ended = false;
  size_t number = 0;
  uint64_t bytes = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty() || line.front() == '#') continue;
    if (ended) return AtLine(number, "the trace has ended before");
    uint64_t gap_us = 0;
    if (!TakeNumber(line, kGapMaxUs, gap_us))
      return AtLine(number, "it does not begin with a gap in microseconds");
    if (line == "end") {
      trace.end_gap = std::chrono::microseconds(gap_us);
      ended = true;
      continue;
    }
    TraceRead read;
    read.gap = std::chrono::microseconds(gap_us);
    if (!TakeNumber(line, kOffsetMax, read.offset)) return AtLine(number, "the offset is no number of bytes");
    if (!TakeNumber(line, TraceRead::kLengthMax, read.length) || read.length == 0) {
      return AtLine(number,
                    absl::StrCat("the length is no number of bytes from 1 to ", TraceRead::kLengthMax));
    }
    if (!IsBelowRoot(line)) return AtLine(number, "the path does not lead to a file below the image's root");
    read.path = std::string(line);
    bytes += read.length;
    if (trace.reads.size() == StartTrace::kReadsMax || bytes > StartTrace::kBytesMax) {
      return AtLine(number, absl::StrCat("more than ", StartTrace::kReadsMax, " reads or ",
                                         StartTrace::kBytesMax, " bytes"));
    }
    trace.reads.push_back(std::move(read));
  }
  if (!ended) return AtLine(number, "the trace has no line \"GAP_US end\": it was cut off");
  return trace;
}

}  // namespace sluice::bench
