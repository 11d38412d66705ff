#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice {

// The records of an extended header of a tar archive (POSIX.1-2001, pax). Keys and values are bytes. Movable.
class PaxHeader {
 public:
  PaxHeader() = default;
  PaxHeader(PaxHeader&&) noexcept = default;
  PaxHeader& operator=(PaxHeader&&) noexcept = default;

  // Errors: InvalidArgument (no sound records).
  static absl::StatusOr<PaxHeader> Parse(std::vector<char> body);

  // The last value of a key, valid as long as this; nullopt if there is none, or an empty one, which says
  // that the key is not set.
  std::optional<std::string_view> Find(std::string_view key) const;

  // All extended attributes, of "SCHILY.xattr.NAME" and of "LIBARCHIVE.xattr.NAME", by name; they may be
  // empty. Errors: InvalidArgument (a name or value that can't be decoded), ResourceExhausted (more than
  // `bytes_max`).
  absl::StatusOr<std::map<std::string, std::string>> Xattrs(uint64_t bytes_max) const;

  // The keys of records that are not applied though they say something of a file: of an entry ACLs as text
  // and SELinux labels, of all entries whatever else an entry's could say. As often as they stand there.
  std::vector<std::string_view> UnappliedOfEntry() const;
  std::vector<std::string_view> UnappliedOfAll() const;

  // "GNU.sparse.offset" and "GNU.sparse.numbytes" in their order, joined as "GNU.sparse.map" is.
  const std::string& sparse_pairs() const { return sparse_pairs_; }

 private:
  absl::Status Add(std::string_view key, std::string_view value);

  std::vector<char> body_;  // what the records point into
  std::vector<std::pair<std::string_view, std::string_view>> records_;
  std::string sparse_pairs_;
  size_t sparse_values_ = 0;
};

// A decimal number, maybe negative; nullopt if it is none, or none of 64 bits.
std::optional<int64_t> ParsePaxNumber(std::string_view text);

struct PaxTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};
// "-1.5"; digits beyond nanoseconds are dropped. nullopt: as above.
std::optional<PaxTime> ParsePaxTime(std::string_view text);

}  // namespace sluice
