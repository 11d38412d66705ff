#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "node/blob.h"
#include "node/blob_claim.h"
#include "node/chunk_flow.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/telemetry.h"

namespace sluice::api {

// What another node asks of one chunk of a blob. Source: PEERS.md, "A request".
struct PeerBlobRequest {
  PeerRole role = PeerRole::kPresentOnly;
  BlobClaim claim;  // with the origin that the request names
  ByteRange range;  // within one chunk of the claim's geometry, not empty
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline;
  std::string asker;               // the member's name, as it says itself; may be empty
  std::vector<std::string> tried;  // helpers that were of no use to it
  bool is_sent_on = false;         // a home has named this node as one that has it, or is receiving it
  std::string token = {};          // by which the origin is to be asked for it; empty: it shows none
};

// The bytes are in the blob's file, for as long as the lease is held, or come just now.
struct PeerBytes {
  Blob::Lease lease;
  std::shared_ptr<const void> sending;  // held until they were sent, or will not be
  Task on_taken;                        // to be run when the asker has got them all
  // Of bytes that are not proven here: the members that they came by, the last of which had them first.
  std::vector<std::string> passed_on_by = {};
  bool is_public = true;                      // the repository that the request names gives them to everybody
  std::shared_ptr<ChunkFlow> flow = nullptr;  // of the chunk, if it is still coming
  Duration public_age = {};                   // if it does: how long ago the registry was found to
};

struct PeerRefusal {
  enum class Why {
    kAbsent,        // the blob, or the chunk, is not here
    kBusy,          // to be asked again; the others may be asked meanwhile
    kAskYourself,   // this node may not get it, or not give it to everybody
    kContradicted,  // what the asker says of the blob is not so
    kNoRoom,        // this node can't store it just now, as others may
  };
  Why why = Why::kAbsent;
  Duration retry = {};                    // of kBusy
  std::vector<std::string> helpers = {};  // of kBusy: members that have the chunk, or are receiving it
  bool takes_credentials = false;         // of kAskYourself: since the origin wants them, and no better ones
                                          // were shown
};

using PeerBlobAnswer = std::variant<PeerRefusal, PeerBytes>;

// Port: chunks for other nodes. Implemented by the daemon.
//
// Thread-safe; does not block.
class PeerBlobs {
 public:
  using OnAnswer = absl::AnyInvocable<void(PeerBlobAnswer) &&>;

  virtual ~PeerBlobs() = default;

  // `on_answer` is called exactly once, soon after the request's deadline at the latest, on any thread;
  // `on_wait` at most once before it, when the bytes are still to come from the origin. The task that is
  // returned gives the request up: the answer then comes soon, and means nothing.
  [[nodiscard]] virtual Task Ask(PeerBlobRequest request, Task on_wait, OnAnswer on_answer) = 0;

  // Whether the origin has asked this node to come again later, and that time is not over.
  virtual bool IsThrottled(const BlobOrigin& origin) const = 0;
};

}  // namespace sluice::api
