#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "p2p/cluster/member_table.h"

namespace sluice::p2p {

// What nodes say to each other of members: GET /sluice/v1/members?since=HASHES&old=BUCKETS, with the asker's
// own row in the header Sluice-Member. Unknown fields are ignored, malformed rows left out.

inline constexpr size_t kMembersBytesMax = 1 << 20;  // of an answer
inline constexpr std::string_view kMembersPath = "/sluice/v1/members";
inline constexpr std::string_view kMemberHeader = "Sluice-Member";

// "HHHHHHHH" of each bucket; of a set one of them.
std::string EncodeHashes(const RowHashes& hashes);
std::optional<RowHashes> DecodeHashes(std::string_view text);
std::string EncodeBuckets(RowBucketSet buckets);
std::optional<RowBucketSet> DecodeBuckets(std::string_view text);

// One row without an age, as JSON on one line. Errors: InvalidArgument.
std::string EncodeRow(const MemberRow& row);
absl::StatusOr<MemberRow> DecodeRow(std::string_view json);

struct MembersAnswer {
  MemberRow self;  // of who answers
  std::vector<MemberTable::Told> rows;
  std::vector<MemberTable::ToldAge> ages;
};
// Leaves rows and ages out, from the end, that would make it longer than kMembersBytesMax. Ages are told in
// whole seconds, rounded up: never younger.
std::string EncodeMembers(const MembersAnswer& answer);
// Errors: InvalidArgument (no JSON, no row of who answers).
absl::StatusOr<MembersAnswer> DecodeMembers(std::string_view json);

}  // namespace sluice::p2p
