#pragma once

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

// Whether the readers of `spec` may read what is in the entry that `known` is of, and of which so many
// present chunks are unverified. REQUIRES: same digest
bool MayShare(const BlobRecord& known, uint32_t unverified, const BlobSpec& spec);

// Adds to what is known what `spec` says more: its origins are the newest then. REQUIRES: MayShare
void Learn(const BlobSpec& spec, BlobRecord* record);

// Takes an origin back that has given nothing. No-op for others.
void Unlearn(const BlobOrigin& origin, BlobRecord* record);

// The key of an entry beside others: a hash of all that is claimed, and of who claims it.
BlobKey KeyBeside(const BlobSpec& spec);

}  // namespace sluice::index
