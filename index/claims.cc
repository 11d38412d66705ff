#include "index/claims.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::index {
namespace {

bool Knows(const BlobRecord& known, const BlobOrigin& origin) {
  return std::find(known.origins.begin(), known.origins.end(), origin) != known.origins.end();
}

// How it keeps the blob; null: plain.
const StoredForm* StoredAt(const BlobRecord& known, const BlobOrigin& origin) {
  const auto found = known.stored.find(origin);
  return found == known.stored.end() ? nullptr : &found->second;
}

// What this node says itself agrees with everybody's.
bool IsOfSameRepository(const BlobRecord& known, const BlobSpec& spec) {
  return known.origins.empty() || spec.origins.empty() || Knows(known, spec.origins.front());
}

// Whether each repository that shares it has given something of it, or is said to.
bool IsGivenToAll(const BlobRecord& known) {
  return std::find(known.access.begin(), known.access.end(), OriginAccess::kUnknown) == known.access.end();
}

// Whether its repository says as before that it keeps the blob compressed, or that it doesn't.
bool IsKeptAlike(const BlobRecord& known, const BlobSpec& spec) {
  if (known.origins.empty() || spec.origins.empty()) return true;
  const BlobOrigin& origin = spec.origins.front();
  return (StoredAt(known, origin) != nullptr) == (spec.StoredAt(origin) != nullptr);
}

bool SameForm(const StoredForm* a, const StoredForm* b) {
  return a && b ? *a == *b : a == b;
}

// Whether all that `spec` says of its first origin is known.
bool SaysNothingNew(const BlobRecord& known, const BlobSpec& spec) {
  return !spec.origins.empty() && Knows(known, spec.origins.front()) && known.chunk_size == spec.chunk_size &&
         known.root == spec.root &&
         SameForm(StoredAt(known, spec.origins.front()), spec.StoredAt(spec.origins.front()));
}

// Drops what was said of it, position and all.
void DropOrigin(std::ptrdiff_t position, BlobRecord* record) {
  record->stored.erase(record->origins[static_cast<size_t>(position)]);
  record->public_at_ms.erase(record->origins[static_cast<size_t>(position)]);
  record->origins.erase(record->origins.begin() + position);
  record->access.erase(record->access.begin() + position);
}

// The newest manifest says how the origin keeps it; null: plain.
void AddOrigin(const BlobOrigin& origin, const StoredForm* stored, BlobRecord* record) {
  if (stored) {
    record->stored.insert_or_assign(origin, *stored);
  } else {
    record->stored.erase(origin);
  }
  const auto found = std::find(record->origins.begin(), record->origins.end(), origin);
  const auto position = found - record->origins.begin();
  if (found != record->origins.end()) {
    std::rotate(record->origins.begin(), found, found + 1);
    std::rotate(record->access.begin(), record->access.begin() + position,
                record->access.begin() + position + 1);
    return;
  }
  record->origins.insert(record->origins.begin(), origin);
  record->access.insert(record->access.begin(), OriginAccess::kUnknown);
  if (record->origins.size() <= kOriginsMax) return;
  // The oldest of those that have given nothing, for what the others gave is known by them.
  auto access = std::find(record->access.rbegin(), record->access.rend() - 1, OriginAccess::kUnknown);
  if (access == record->access.rend() - 1) access = record->access.rbegin();
  DropOrigin(record->access.rend() - access - 1, record);
}

}  // namespace

bool MayShare(const BlobRecord& known, uint32_t unverified, const BlobSpec& spec) {
  if (known.size != spec.size) return false;
  if (spec.is_hearsay && known.proven && unverified == 0) {
    return known.chunk_size == spec.chunk_size && !spec.origins.empty() && Knows(known, spec.origins.front());
  }
  if (spec.is_hearsay || known.is_hearsay) return SaysNothingNew(known, spec);
  // What is compressed comes in frames of its own manifest's chunks.
  const bool is_cut_alike = known.chunk_size == spec.chunk_size || spec.stored.empty();
  if (known.proven && unverified == 0) return is_cut_alike;
  if (known.chunk_size != spec.chunk_size) return false;
  const bool same_repository = IsOfSameRepository(known, spec);
  if (known.root && spec.root) {
    return *known.root == *spec.root && (same_repository || (unverified == 0 && IsGivenToAll(known)));
  }
  // A root is another repository's word as long as nobody has hashed the blob.
  if (spec.root && (known.proven || known.origins.size() > 1)) return false;
  return same_repository && IsKeptAlike(known, spec);
}

void Learn(const BlobSpec& spec, BlobRecord* record) {
  if (spec.is_hearsay && !record->origins.empty()) return;
  record->is_hearsay = spec.is_hearsay;
  if (!record->proven && !record->root) record->root = spec.root;
  for (auto origin = spec.origins.rbegin(); origin != spec.origins.rend(); ++origin) {
    AddOrigin(*origin, spec.StoredAt(*origin), record);
  }
}

void Unlearn(const BlobOrigin& origin, BlobRecord* record) {
  const auto found = std::find(record->origins.begin(), record->origins.end(), origin);
  if (found == record->origins.end()) return;
  const auto access = record->access.begin() + (found - record->origins.begin());
  // What was imported came by none of them.
  const bool is_last = record->origins.size() == 1 && !record->is_imported;
  if (*access != OriginAccess::kUnknown || is_last) return;
  DropOrigin(found - record->origins.begin(), record);
}

void LearnMounted(const BlobSpec& spec, BlobRecord* record) {
  record->is_hearsay = false;
  // Of two roots one is wrong, and nobody knows which.
  if (record->root && spec.root && *record->root != *spec.root && !record->proven) record->root.reset();
  for (auto origin = spec.origins.rbegin(); origin != spec.origins.rend(); ++origin) {
    // The mount's image may be older than what is known since.
    const bool is_known = Knows(*record, *origin);
    AddOrigin(*origin, is_known ? StoredAt(*record, *origin) : spec.StoredAt(*origin), record);
  }
}

BlobKey KeyBeside(const BlobSpec& spec, uint32_t salt) {
  std::string claim = absl::StrCat("sluice claim ", salt, "\n", spec.digest.ToString(), "\n", spec.size, "\n",
                                   spec.chunk_size, "\n", spec.root ? spec.root->Hex() : "", "\n");
  if (!spec.origins.empty()) {
    absl::StrAppend(&claim, spec.origins.front().registry, "\n", spec.origins.front().repository, "\n");
    if (spec.StoredAt(spec.origins.front())) absl::StrAppend(&claim, "zstd\n");
  }
  std::array<uint8_t, Digest::kBytes> hash{};
  // It has no way to fail but for want of memory.
  if (EVP_Digest(claim.data(), claim.size(), hash.data(), nullptr, EVP_sha512_256(), nullptr) != 1)
    std::abort();
  return BlobKey(Digest(hash));
}

}  // namespace sluice::index
