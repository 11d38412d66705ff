#include "node/image/sparse_map.h"

#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "node/image/pax_header.h"

namespace sluice {
namespace {

constexpr size_t kDigitsMax = 20;
constexpr size_t kNumberBytes = 12;

absl::Status Unsound() {
  return absl::InvalidArgumentError("its map of holes is unsound");
}

absl::Status TooMany() {
  return absl::ResourceExhaustedError(
      absl::StrCat("it has more than ", SparseMap::kRunsMax, " runs between holes"));
}

}  // namespace

absl::Status SparseMap::Add(int64_t offset, int64_t size) {
  if (offset < 0 || size < 0 || size > std::numeric_limits<int64_t>::max() - offset) return Unsound();
  const auto begin = static_cast<uint64_t>(offset);
  const auto bytes = static_cast<uint64_t>(size);
  if (begin < end_) return Unsound();
  if (added_ == kRunsMax) return TooMany();
  ++added_;
  end_ = begin + bytes;
  bytes_ += bytes;
  if (bytes > 0) runs_.push_back({begin, bytes});
  return absl::OkStatus();
}

absl::Status SparseMap::AddText(std::string_view text) {
  const auto next = [&]() -> std::optional<int64_t> {
    const size_t comma = text.find(',');
    const std::optional<int64_t> number = ParsePaxNumber(text.substr(0, comma));
    text.remove_prefix(comma == std::string_view::npos ? text.size() : comma + 1);
    return number;
  };
  while (!text.empty()) {
    const std::optional<int64_t> offset = next();
    const std::optional<int64_t> size = next();
    if (!offset || !size) return Unsound();
    if (absl::Status added = Add(*offset, *size); !added.ok()) return added;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SparseMap::AddFields(TarBlock block, Fields fields) {
  const std::string_view text(reinterpret_cast<const char*>(block.data()), block.size());
  size_t at = fields.offset;
  const size_t end = at + fields.runs * 2 * kNumberBytes;
  for (; at < end && text[at] != '\0'; at += 2 * kNumberBytes) {
    const std::optional<int64_t> offset = ParseTarNumber(text.substr(at, kNumberBytes));
    const std::optional<int64_t> size = ParseTarNumber(text.substr(at + kNumberBytes, kNumberBytes));
    if (!offset || !size) return Unsound();
    if (absl::Status added = Add(*offset, *size); !added.ok()) return added;
  }
  return text[end] != '\0';
}

absl::Status SparseMap::Check(uint64_t size, uint64_t stored) const {
  if (end_ > size) return absl::InvalidArgumentError("its map of holes goes beyond its end");
  if (bytes_ != stored) {
    return absl::InvalidArgumentError(
        absl::StrCat("its map of holes has ", bytes_, " bytes, and ", stored, " are stored"));
  }
  return absl::OkStatus();
}

absl::Status SparseTextParser::Feed(std::string_view bytes) {
  for (const char c : bytes) {
    if (done()) return absl::OkStatus();
    if (c == '\n') {
      if (absl::Status finished = FinishNumber(); !finished.ok()) return finished;
      continue;
    }
    if (c < '0' || c > '9' || ++digits_ > kDigitsMax) return Unsound();
    const int64_t digit = c - '0';
    if (number_ > (std::numeric_limits<int64_t>::max() - digit) / 10) return Unsound();
    number_ = number_ * 10 + digit;
  }
  return absl::OkStatus();
}

absl::Status SparseTextParser::FinishNumber() {
  if (digits_ == 0) return Unsound();
  const int64_t number = std::exchange(number_, 0);
  digits_ = 0;
  if (!have_count_) {
    if (number > static_cast<int64_t>(SparseMap::kRunsMax)) return TooMany();
    have_count_ = true;
    numbers_left_ = static_cast<size_t>(number) * 2;
    return absl::OkStatus();
  }
  if (numbers_left_-- % 2 == 0) {
    offset_ = number;
    return absl::OkStatus();
  }
  return map_.Add(offset_, number);
}

}  // namespace sluice
