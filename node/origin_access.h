#pragma once

#include "node/blob.h"
#include "node/blob_key.h"
#include "node/executor.h"
#include "node/peer_trust.h"

namespace sluice {

// What it took to get a blob from a repository.
enum class OriginAccess {
  kUnknown = 0,  // nothing of it was got from there yet
  kHearsay = 1,  // a member gave it as public in that repository, to a request without credentials
  kPublic = 2,   // the registry itself gave it to a request without credentials
  // The registry gave it to credentials, this node's or those of a proven member, and has never given it
  // without.
  kCredentials = 3,
};

// Port: remembers with each blob how it was got, so that what needed credentials is given to nobody else.
// Implemented by index/.
//
// Thread-safe; no disk access.
class AccessLedger {
 public:
  virtual ~AccessLedger() = default;

  // What the registry itself did outweighs what a member said, and once it gave a blob to everybody that
  // stands. A blob of which something came by credentials is nowhere public by hearsay. What was here before
  // anything was known of access counts as got by credentials. No-op if the blob, or the origin among its
  // origins, is not known. Reaches the disk a little later; what a crash loses is unknown again.
  virtual void NoteAccess(const BlobKey& blob, const BlobOrigin& origin, OriginAccess access) = 0;
  virtual OriginAccess AccessOf(const BlobKey& blob, const BlobOrigin& origin) const = 0;

  // As NoteAccess of kHearsay; the registry itself gave it to everybody that long ago, by what the member
  // says. What goes from member to member does not become younger by that.
  virtual void NoteHearsay(const BlobKey& blob, const BlobOrigin& origin, Duration) {
    NoteAccess(blob, origin, OriginAccess::kHearsay);
  }
  // How long ago the registry gave it to everybody, as far as is known; kLongAgo where nobody knows.
  virtual Duration PublicAge(const BlobKey&, const BlobOrigin&) const { return Duration(); }

  static constexpr Duration kLongAgo = std::chrono::hours(24 * 365);

  // What was got just now: by whose word is in `access`, which is what it says of `public_age`.
  void NoteGiven(const BlobKey& blob, const BlobOrigin& origin, OriginAccess access, Duration public_age) {
    if (access == OriginAccess::kHearsay) return NoteHearsay(blob, origin, public_age);
    NoteAccess(blob, origin, access);
  }
};

// Whether a blob that was got so may be given to who names that repository and shows no credentials.
constexpr bool IsPublic(OriginAccess access) {
  return access == OriginAccess::kPublic || access == OriginAccess::kHearsay;
}

// Whether another node may be given a blob that was got so from the repository that it names. Those that are
// proven ask for themselves before they serve anybody; but who has no right in one repository must not get by
// its name what another keeps.
constexpr bool MayBeGiven(OriginAccess access, PeerTrust trust) {
  return IsPublic(access) || (trust == PeerTrust::kProven && access != OriginAccess::kUnknown);
}

// What is known after `heard`, when `known` was before.
constexpr OriginAccess Stronger(OriginAccess known, OriginAccess heard) {
  if (known == OriginAccess::kPublic || heard == OriginAccess::kPublic) return OriginAccess::kPublic;
  return known > heard ? known : heard;
}

}  // namespace sluice
