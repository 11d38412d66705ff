#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node/chunk_set.h"
#include "p2p/cluster/holder_table.h"

namespace sluice::p2p {

inline constexpr char kHoldersPath[] = "/sluice/v1/holders";
inline constexpr size_t kHoldersNamedMax = 50;  // in one answer

// What a holder says of itself; the body of a POST to kHoldersPath. Source: PEERS.md, "Who has what".
struct Announcement {
  std::string holder;  // its name as a member
  std::vector<HeldBlob> held;
  std::vector<BlobIdentity> gone;
};
std::string FormatAnnouncement(const Announcement& announcement);
// Nothing if it is malformed; unknown fields are ignored, and so are blobs that can't be.
std::optional<Announcement> ParseAnnouncement(std::string_view text);

// "digest=…&size=…&chunk=…&root=…", the query of a GET.
std::string FormatHoldersQuery(const BlobIdentity& blob);
std::optional<BlobIdentity> MakeBlobIdentity(std::string_view digest, std::string_view size,
                                             std::string_view chunk, std::string_view root);
// The names in an answer, at most kHoldersNamedMax.
std::string FormatHolders(const std::vector<std::string>& names);
std::optional<std::vector<std::string>> ParseHolders(std::string_view text);

// To a query that ends with this, the holders are those that have most, the first of all, beside how many
// bytes each has. Who does not know it answers as without.
inline constexpr char kSharesQuery[] = "&shares=1";
std::string FormatShares(const std::vector<HolderShare>& shares);
std::optional<std::vector<HolderShare>> ParseShares(std::string_view text);

// Which chunks of a blob a member has: a GET of kPresencePath, "/", the digest, and a query as above without
// it.
inline constexpr char kPresencePath[] = "/sluice/v1/presence";
inline constexpr size_t kPresenceBytesMax = 16 << 10;  // of an answer
std::string FormatPresencePath(const BlobIdentity& blob);
// {"present": BASE64}: chunk i is bit i % 8 of byte i / 8, the lowest first.
std::string FormatPresence(const ChunkSet& present);
// Nothing if it is malformed, or not of so many chunks.
std::optional<ChunkSet> ParsePresence(std::string_view text, uint32_t chunk_count);

}  // namespace sluice::p2p
