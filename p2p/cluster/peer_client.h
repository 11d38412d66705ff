#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/blob_claim.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/origin_access.h"
#include "node/peer_trust.h"
#include "node/proven_names.h"
#include "node/telemetry.h"
#include "node/tls/current_identity.h"
#include "p2p/cluster/members.h"
#include "p2p/http/http_client.h"

namespace sluice::p2p {

struct PeerClientOptions {
  std::string user_agent = "sluice";
  std::string node_id;  // of this process; an answer that bears it came from this very node
  std::string name{};   // of this node as a member; told to those who are asked for chunks
  std::string zone{};   // of this node; what comes from another is counted
  PeerTrust trust = PeerTrust::kUnproven;  // whether who answers has shown that it is a member
  // By which members are reached over TLS; null: in the clear.
  std::shared_ptr<const tls::CurrentIdentity> identity{};
  Duration connect_timeout = std::chrono::milliseconds(1500);
  Duration silence_max = std::chrono::milliseconds(1500);  // without a byte: PEERS.md, "Silence"
  // Of who is asked for what it has, before its first byte: it has nothing to wait for. (In a simulation of
  // 300 nodes of which a tenth vanished the others took 8 s for what takes 3; with this they take 4.)
  Duration present_silence_max = std::chrono::milliseconds(500);
  // Until a connection is taken, if nothing else comes of that member; two thirds of it are more than any
  // round trip. (In that simulation, where a tenth of those that are known had gone before, it makes 3.0 s of
  // 3.4.)
  Duration dial_silence_max = std::chrono::milliseconds(600);
  // A member that is slower than this gives way to the next.
  uint64_t rate_min_bytes_per_s = 64 << 10;
  Duration rate_window = std::chrono::seconds(3);
  uint32_t requests_per_member_max = 8;
  // Connections that are kept with nothing under way. Another one costs a round trip in the clear, and a
  // handshake by TLS, of which there are few in a second. (In a simulation of 300 nodes by TLS 32 that are
  // kept make 13 times the bound, these 2.2.)
  uint32_t kept_max = 16, kept_by_tls_max = 512;
};

// What is asked of a member. Source: PEERS.md, "A request".
enum class PeerRole {
  kHome,         // to fetch it, if it does not have it
  kZoneHome,     // the same, from other zones if need be, for its own
  kPresentOnly,  // what it has
};

// Port: asks other nodes for what they have, or would fetch.
//
// Thread-safe. Callbacks come on a thread of its own and must not block.
class PeerTransport {
 public:
  using OnData = absl::AnyInvocable<void(std::span<const std::byte>)>;
  // The member says that it waits for the bytes itself; `patience`: the origin has asked it to.
  using OnSign = absl::AnyInvocable<void(bool patience)>;

  struct ChunkQuestion {
    const BlobOrigin* origin = nullptr;  // never null; by whose right the member has it, or asks
    const BlobSpec* blob = nullptr;      // never null; what this node believes of it
    BlobClaim::Access access = BlobClaim::Access::kNotPublic;
    ByteRange range;  // of one chunk
    PeerRole role = PeerRole::kPresentOnly;
    FetchClass fetch_class = FetchClass::kDemand;
    Instant deadline;
    std::string tried;        // names of helpers that had failed, by commas
    bool is_sent_on = false;  // another has named this one, which has the chunk or is receiving it
    // What the member says of the bytes, written before the first of them is given; null: it is of no use.
    struct Vouch {
      bool verified = false;               // it had verified them
      std::vector<std::string> passed_on;  // else whom it had them from, and these from whom
      bool coming = false;                 // they come to it just now, and may break off
      Duration public_age{};               // if its access is kHearsay: as AccessLedger::NoteHearsay
    };
    std::shared_ptr<Vouch> vouch = nullptr;
    // By which a home may ask the origin; empty: none. Never sent to members that are not proven.
    std::string token = {};
    // Told before the first byte what the member says of the repository: kHearsay (public), or kUnknown (not,
    // as far as it knows). May be null.
    std::function<void(OriginAccess)> on_access = nullptr;
    // Of who is asked for what it has, before its first byte, if that is less than otherwise and no handshake
    // is to be waited for; 0: no less.
    Duration quiet_max{};
  };
  // What a busy member says: when to come again, and names of members that have what was asked for, or are
  // receiving it.
  struct Busy {
    Duration retry_after{};
    std::vector<std::string> helpers;
  };
  struct ChunkOutcome {
    // OK: every byte was given. NotFound: the member lacks it; ResourceExhausted: it is busy;
    // Unauthenticated: everybody has to ask the origin for himself; FailedPrecondition: what is believed of
    // the blob is wrong; PermissionDenied: it is this node itself; DataLoss: its answer was not what was
    // asked for; DeadlineExceeded; Cancelled; Unavailable: all else.
    absl::Status status;
    // When it is busy: when to come again, and names of members that have the chunk, or are receiving it.
    Duration retry_after{};
    std::vector<std::string> helpers;
    bool patience = false;           // the origin has asked for it
    bool takes_credentials = false;  // why everybody has to ask the origin for himself, if it says so
  };
  using OnChunkDone = absl::AnyInvocable<void(ChunkOutcome) &&>;

  static constexpr size_t kHelpersMax = 4;
  static constexpr size_t kPassedOnMax = 8;
  static constexpr Duration kRetryAfterMax = std::chrono::seconds(2);

  virtual ~PeerTransport() = default;

  // A chunk's bytes, in order. A member that has them under another root lacks them: who is wrong about the
  // root is not known. REQUIRES: the range is a chunk of the blob
  using RequestId = HttpClient::RequestId;
  virtual RequestId ReadChunk(const Member& member, const ChunkQuestion& question, OnData on_data,
                              OnSign on_sign, OnChunkDone on_done) = 0;
  // As HttpClient says.
  virtual void Cancel(RequestId id) = 0;
  virtual void Raise(RequestId id, FetchClass fetch_class) = 0;
  virtual void After(Duration delay, Task task) = 0;

  struct Answer {
    std::string media_type;
    std::string body;
    OriginAccess access = OriginAccess::kHearsay;  // as ChunkQuestion::on_access says
    ProvenNames proven_names{};                    // of who answered
    Duration public_age{};                         // as ChunkQuestion::Vouch::public_age
  };
  // A whole, small answer to GET of `path_and_query`. Errors: as above, and ResourceExhausted (longer than
  // bytes_max). TakesCredentials says more of Unauthenticated, and BusyOf of ResourceExhausted.
  using OnAnswer = absl::AnyInvocable<void(absl::StatusOr<Answer>) &&>;
  struct Question {
    std::string path_and_query;
    uint64_t bytes_max = 0;
    Duration timeout{};
    std::string own_row{};  // of this node, told in a header; empty: not told
    std::string body{};     // not empty: it is a POST
    PeerRole role = PeerRole::kPresentOnly;
    std::string token{};  // as ChunkQuestion has it
    FetchClass fetch_class = FetchClass::kDemand;
    bool is_spread = false;  // it is given to few at once: who asks says his name, and is told of others
    std::string tried{};     // of that, names of helpers that had failed, by commas
    // Told each time that the member says that it is at it, and when it begins to answer; on the client's
    // thread. May be null.
    std::function<void()> on_sign = nullptr;
  };
  virtual void Ask(const Member& member, const Question& question, OnAnswer on_answer) = 0;
};

// Asks them by HTTP: one client on a thread of its own, kept connections, no proxy. Proven members are shown
// the token that a question has; nobody is shown a password. Over TLS a member whose certificate is another's
// is Unavailable.
class PeerClient final : public PeerTransport {
 public:
  // The telemetry outlives the client.
  PeerClient(Telemetry& telemetry, PeerClientOptions options);
  // Cancels what is under way.
  ~PeerClient() override;

  RequestId ReadChunk(const Member& member, const ChunkQuestion& question, OnData on_data, OnSign on_sign,
                      OnChunkDone on_done) override;
  void Cancel(RequestId id) override { http_.Cancel(id); }
  void Raise(RequestId id, FetchClass fetch_class) override { http_.Raise(id, fetch_class); }
  void After(Duration delay, Task task) override { http_.After(delay, std::move(task)); }
  void Ask(const Member& member, const Question& question, OnAnswer on_answer) override;
  // The same as Ask; blocks: not on the client's thread.
  absl::StatusOr<Answer> Get(const Member& member, const std::string& path_and_query, uint64_t bytes_max,
                             Duration timeout);

  // Whether it is an Unauthenticated of a member that says that the origin wants credentials.
  static bool TakesCredentials(const absl::Status& status);
  // What it said if it is the ResourceExhausted of a member that sends what a Question asks for to others
  // just now; else nullopt.
  static std::optional<Busy> BusyOf(const absl::Status& status);

  // Idempotent; later calls are Cancelled.
  void Stop();

 private:
  HttpRequest Request(const Member& member, const std::string& path_and_query, PeerRole role,
                      Duration timeout) const;
  void AddToken(const std::string& token, HttpRequest& request) const;

  Telemetry& telemetry_;
  const PeerClientOptions options_;
  HttpClient http_;
};

// "/v2/<repository>/blobs/<digest>?ns=<registry>"; `kind` is "blobs", "manifests" or "referrers", the
// reference a digest or a tag.
std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const Digest& digest);
std::string RegistryPathOf(const BlobOrigin& origin, std::string_view kind, const std::string& reference);

}  // namespace sluice::p2p
