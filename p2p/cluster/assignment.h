#pragma once

#include <cstdint>
#include <string_view>

#include "node/digest.h"

namespace sluice::p2p {

// Which members are asked for which part of a blob: rendezvous hashing over their names, so that all nodes
// agree without talking. Source: PEERS.md, "Assignment"; two builds must agree on every value here.
inline constexpr uint8_t kProtocolMajor = 1;

// A stripe is the aligned piece of a blob that members are chosen for: the largest power of two that is not
// above a 64th of the blob, at least 256 KiB, at most 4 MiB.
uint64_t StripeBytes(uint64_t blob_size);

// The first 8 bytes, big-endian, of the SHA-256 over the protocol's major and the digest; and of a name's.
uint64_t ScoreKeyOf(const Digest& blob);
uint64_t ScoreKeyOf(std::string_view member);

// The higher, the sooner that member is asked for that stripe. A tie goes to the lesser name.
uint64_t Score(uint64_t blob_key, uint64_t stripe, uint64_t member_key);

}  // namespace sluice::p2p
