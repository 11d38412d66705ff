#pragma once

#include <cstddef>
#include <cstdint>

#include "index/index_codec.h"
#include "node/blob.h"
#include "node/blob_key.h"

namespace sluice::index {

// What is said of a blob before its whole digest was hashed is a claim of the repository whose manifest says
// it. Claims that agree share an entry of the store, with its file; those that don't have one each, so that
// none can fail or poison the readers of another. An entry that several repositories share has no chunk that
// isn't proven by a recipe, or by the digest; and before the digest is proven nobody joins one that might
// wait for bytes which only others are given.
//
// How a repository keeps the blob, plain or compressed, is part of its claim unless a root proves each chunk;
// what exactly is stored is not: the newest manifest's word replaces what an older one said.

//
// What another node says is kept apart from that: it may name other stored bytes than a manifest does, so it
// shares an entry only where it says nothing new, and changes none. Who reads by a manifest shares an entry
// of hearsay only if the manifest says the same, and then it is hearsay no more.

// Whether the readers of `spec` may read what is in the entry that `known` is of, and of which so many
// present chunks are unverified. REQUIRES: same digest
bool MayShare(const BlobRecord& known, uint32_t unverified, const BlobSpec& spec);

// Adds to what is known what `spec` says more: its origins are the newest then, and how they keep the blob is
// as it says. REQUIRES: MayShare
void Learn(const BlobSpec& spec, BlobRecord* record);

// Takes an origin back that has given nothing. No-op for others, and for the last one: what is here came by
// it, unless it was imported.
void Unlearn(const BlobOrigin& origin, BlobRecord* record);

// Adds the origins of a mount that reads this very file, whatever else is said of it. REQUIRES: same digest,
// size and chunk size
void LearnMounted(const BlobSpec& spec, BlobRecord* record);

// Of one digest; there are no more entries.
inline constexpr size_t kClaimsMax = 64;
inline constexpr size_t kHearsayMax = 16;  // of those

// The key of an entry beside others: a hash of all that is claimed, and of who claims it. It is SHA-512/256,
// so that nobody can make contents whose digest it is. `salt` tells keys of the same claim apart.
BlobKey KeyBeside(const BlobSpec& spec, uint32_t salt = 0);

}  // namespace sluice::index
