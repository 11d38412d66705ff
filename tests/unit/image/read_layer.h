#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "node/image/byte_stream.h"
#include "node/image/layer_limits.h"
#include "node/image/layer_reader.h"
#include "node/image/tar_reader.h"

namespace sluice {

// A stream of bytes in memory that gives at most so many at once, and may fail at its end.
class MemoryStream final : public ByteStream {
 public:
  explicit MemoryStream(std::string bytes, size_t at_once = 1 << 20, absl::Status end = absl::OkStatus())
      : bytes_(std::move(bytes)), at_once_(at_once), end_(std::move(end)) {}

  absl::StatusOr<size_t> Read(std::span<std::byte> buffer) override {
    const size_t n = std::min({buffer.size(), at_once_, bytes_.size() - offset_});
    if (n == 0 && !end_.ok()) return end_;
    std::memcpy(buffer.data(), bytes_.data() + offset_, n);
    offset_ += n;
    return n;
  }

 private:
  const std::string bytes_;
  const size_t at_once_;
  const absl::Status end_;
  size_t offset_ = 0;
};

// An entry as it was read, with the bytes that lie between its holes.
struct EntryRead {
  LayerEntry entry;
  std::vector<std::pair<uint64_t, std::string>> runs;  // neighbours joined

  std::string Contents() const {
    std::string contents(entry.size, '\0');
    for (const auto& [offset, bytes] : runs) contents.replace(offset, bytes.size(), bytes);
    return contents;
  }
};

inline absl::StatusOr<EntryRead> ReadContents(LayerReader& reader, LayerEntry entry) {
  EntryRead read{std::move(entry), {}};
  uint64_t end = 0;
  while (true) {
    ContentRun run;
    absl::StatusOr<bool> more = reader.NextRun(run);
    if (!more.ok()) return more.status();
    if (!*more) return read;
    if (run.bytes.empty()) return absl::InternalError("an empty run");
    if (run.offset < end || run.offset + run.bytes.size() > read.entry.size) {
      return absl::InternalError("a run out of place");
    }
    const std::string text(reinterpret_cast<const char*>(run.bytes.data()), run.bytes.size());
    if (!read.runs.empty() && run.offset == end) {
      read.runs.back().second += text;
    } else {
      read.runs.emplace_back(run.offset, text);
    }
    end = run.offset + run.bytes.size();
  }
}

// All entries of a layer; what was read before an error, if `before_error` is given.
inline absl::StatusOr<std::vector<EntryRead>> ReadAll(LayerReader& reader,
                                                      std::vector<EntryRead>* before_error = nullptr) {
  std::vector<EntryRead> entries;
  while (true) {
    LayerEntry entry;
    absl::StatusOr<bool> more = reader.Next(entry);
    absl::StatusOr<EntryRead> read = absl::InternalError("not read");
    if (more.ok() && !*more) return entries;
    if (more.ok()) read = ReadContents(reader, std::move(entry));
    if (!more.ok() || !read.ok()) {
      if (before_error != nullptr) *before_error = std::move(entries);
      return more.ok() ? read.status() : more.status();
    }
    entries.push_back(*std::move(read));
  }
}

inline absl::StatusOr<std::vector<EntryRead>> ReadTar(const std::string& bytes, LayerLimits limits = {},
                                                      size_t at_once = 1 << 20) {
  MemoryStream stream(bytes, at_once);
  LayerUsage usage;
  TarReader reader(stream, limits, usage);
  return ReadAll(reader);
}

}  // namespace sluice
