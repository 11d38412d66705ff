#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "node/digest.h"
#include "node/geometry.h"

namespace sluice::p2p {

// Which members are asked for which part of a blob: rendezvous hashing over their names, so that all nodes
// agree without talking. Source: PEERS.md, "Assignment"; two builds must agree on every value here.
inline constexpr uint8_t kProtocolMajor = 1;

// A stripe is the aligned piece of a blob that members are chosen for: the largest power of two that is not
// above a 64th of the blob, at least 256 KiB, at most 4 MiB.
uint64_t StripeBytes(uint64_t blob_size);
// At least 1. A chunk belongs to the stripe of its first byte, whatever the chunk size.
uint64_t StripeCount(uint64_t blob_size);
// The chunks of the stripe that the chunk belongs to.
ChunkSpan StripeAround(const ChunkGeometry& geometry, ChunkIndex chunk);

// The first 8 bytes, big-endian, of the SHA-256 over the protocol's major and the digest; and of a name's.
uint64_t ScoreKeyOf(const Digest& blob);
uint64_t ScoreKeyOf(std::string_view member);

// The higher, the sooner that member is asked for that stripe. A tie goes to the lesser name.
uint64_t Score(uint64_t blob_key, uint64_t stripe, uint64_t member_key);
// The same over the digest alone: for the blob's own ranks, and for who has the larger cap.
uint64_t BlobScore(uint64_t blob_key, uint64_t member_key);

// Whether the one member comes before the other for that stripe by score alone, ties as above: all nodes
// agree on that, whatever they know of members.
bool OutScores(const Digest& blob, uint64_t stripe, std::string_view member, std::string_view other);

// A member's position in a view, which is in the order of names.
using MemberIndex = uint16_t;
inline constexpr MemberIndex kNoMember = UINT16_MAX;  // where there are fewer

// The home of each stripe: bounded loads over the scores. With x = 1.25 * stripes / members a member takes at
// most floor(x) stripes, one more if BlobScore / 2^64 is below the fraction of x, and 1 where x is below 1.
// Stripes in order of number go to the best score below its cap; if all are at their caps, to the best score
// among the least loaded. Costs stripes * members: 10 ms for 2,560 of 1,000.
//
// REQUIRES: the keys are those of the members in the order of their names; 1 to 65,535 of them
std::vector<MemberIndex> AssignHomes(uint64_t blob_key, uint64_t stripe_count,
                                     std::span<const uint64_t> member_keys);

}  // namespace sluice::p2p
