#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/telemetry.h"
#include "p2p/cluster/members.h"
#include "p2p/http/http_client.h"

namespace sluice::p2p {

struct PeerClientOptions {
  std::string user_agent = "sluice";
  std::string node_id;  // of this process; an answer that bears it came from this very node
  Duration connect_timeout = std::chrono::milliseconds(1500);
  Duration silence_max = std::chrono::milliseconds(1500);  // without a byte: PEERS.md, "Silence"
  // A member that is slower than this gives way to the next.
  uint64_t rate_min_bytes_per_s = 64 << 10;
  Duration rate_window = std::chrono::seconds(3);
  uint32_t requests_per_member_max = 8;
};

// Asks other nodes for what they have, never for what they would have to fetch ("present-only" in PEERS.md).
// One HTTP client on a thread of its own, kept connections, no proxy, no credentials.
//
// Thread-safe. Callbacks come on the client's thread and must not block.
class PeerClient {
 public:
  using OnData = absl::AnyInvocable<void(std::span<const std::byte>)>;
  struct RangeOutcome {
    // OK: every byte of the range was given. NotFound: the member lacks some of it; PermissionDenied: it is
    // this node itself; DataLoss: its answer was not what was asked for; DeadlineExceeded; Cancelled;
    // Unavailable: all else.
    absl::Status status;
    std::vector<ByteRange> present;  // with NotFound: the parts that it says it has
  };
  using OnRange = absl::AnyInvocable<void(RangeOutcome) &&>;

  // The telemetry outlives the client.
  PeerClient(Telemetry& telemetry, PeerClientOptions options);
  // Cancels what is under way.
  ~PeerClient();

  // Bytes of a blob, in order. A member that has them under another root lacks them: who is wrong about the
  // root is not known. REQUIRES: the range is within the blob and not empty
  using RequestId = HttpClient::RequestId;
  RequestId ReadRange(const Member& member, const BlobOrigin& origin, const BlobSpec& blob, ByteRange range,
                      FetchClass fetch_class, Instant deadline, OnData on_data, OnRange on_done);
  // As HttpClient says.
  void Cancel(RequestId id) { http_.Cancel(id); }
  void Raise(RequestId id, FetchClass fetch_class) { http_.Raise(id, fetch_class); }

  struct Answer {
    std::string media_type;
    std::string body;
  };
  // A whole, small answer to GET of `path_and_query`. Errors: as above, and ResourceExhausted (longer than
  // bytes_max).
  using OnAnswer = absl::AnyInvocable<void(absl::StatusOr<Answer>) &&>;
  // kHome: it fetches what it does not have. It says every now and then that it is at it; further errors:
  // FailedPrecondition (this node is to ask the registry itself), Aborted (it is busy).
  enum class Role { kPresentOnly, kHome };
  struct Question {
    std::string path_and_query;
    uint64_t bytes_max = 0;
    Duration timeout{};
    std::string own_row = {};  // of this node, told in a header; empty: not told
    Role role = Role::kPresentOnly;
  };
  void Ask(const Member& member, const Question& question, OnAnswer on_answer);
  // The same; blocks: not on the client's thread.
  absl::StatusOr<Answer> Get(const Member& member, const std::string& path_and_query, uint64_t bytes_max,
                             Duration timeout);

  // Idempotent; later calls are Cancelled.
  void Stop();

 private:
  HttpRequest Request(const Member& member, const std::string& path_and_query, Duration timeout,
                      Role role) const;

  Telemetry& telemetry_;
  const PeerClientOptions options_;
  HttpClient http_;
};

// "/v2/<repository>/blobs/<digest>?ns=<registry>"; `kind` is "blobs", "manifests" or "referrers", the
// reference a digest or a tag.
std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const Digest& digest);
std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const std::string& reference);

}  // namespace sluice::p2p
