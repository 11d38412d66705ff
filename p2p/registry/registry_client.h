#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/blob.h"
#include "node/chunk_source.h"
#include "node/digest.h"
#include "node/executor.h"
#include "node/geometry.h"
#include "node/origin_access.h"
#include "node/secret.h"
#include "node/telemetry.h"
#include "p2p/http/http_client.h"
#include "p2p/registry/manifest.h"
#include "p2p/registry/pull_rights.h"
#include "p2p/registry/registry_auth.h"

namespace sluice::p2p {

struct RegistryOptions {
  std::string docker_config_path;  // a docker config.json; empty: no credentials
  std::string ca_file;             // PEM; empty: the system's
  // host[:port] that speak plain http. Registries on loopback do so unless they stand in `loopback_https`.
  std::vector<std::string> plain_http;
  std::vector<std::string> loopback_https;
  std::string user_agent = "sluice";

  Duration connect_timeout = std::chrono::seconds(5);
  Duration request_timeout = std::chrono::seconds(60);  // of a call that names no deadline, retries included
  Duration upload_timeout = std::chrono::minutes(30);   // of each request that carries a blob's bytes up
  uint64_t rate_min_bytes_per_s = 1024;
  Duration rate_window = std::chrono::seconds(20);
  uint32_t requests_per_host_max = 32;

  uint32_t retries_max = 4;
  Duration backoff_first = std::chrono::milliseconds(100);
  Duration backoff_max = std::chrono::seconds(5);
  Duration retry_after_max = std::chrono::seconds(30);  // a longer Retry-After is cut to this
  uint32_t breaker_failures_max = 12;                   // in a row, per host
  Duration breaker_open_time = std::chrono::seconds(2);
  Duration not_found_ttl = std::chrono::seconds(5);
  Duration redirect_ttl = std::chrono::seconds(60);
  uint64_t upload_chunk_bytes = 32 << 20;
  uint64_t random_seed = 0;  // of the jitter
  // Asked for anonymous tokens before token servers are; may be null.
  std::function<void(const BlobOrigin& repository, absl::AnyInvocable<void(absl::StatusOr<AccessToken>) &&>)>
      shared_token = nullptr;
};

struct FetchedManifest {
  std::string media_type;  // as the registry's Content-Type says, without parameters
  std::string body;
  Digest digest;                                 // of `body`, computed here
  OriginAccess access = OriginAccess::kUnknown;  // what it took to get it
  bool from_member = false;                      // by another node, and no registry
  Duration public_age = {};  // if it is public: how long ago the registry was found to give it to everybody
};

// A range of a blob that is to be read, as RegistryClient::ReadBlobRange says.
struct BlobRead {
  using OnAccess = absl::AnyInvocable<void(OriginAccess)>;
  using OnData = absl::AnyInvocable<void(std::span<const std::byte>)>;
  using Done = absl::AnyInvocable<void(absl::Status) &&>;

  BlobOrigin origin;
  Digest digest;
  uint64_t blob_size = 0;
  ByteRange range;
  FetchClass fetch_class = FetchClass::kDemand;
  Instant deadline{};
  Grant grant = nullptr;
  OnAccess on_access;
  OnData on_data;
  Done done;
};

// A read that stands still while its reader takes no more.
class PacedControl : public FetchControl {
 public:
  // It is taken again.
  virtual void GoOn() = 0;
};

// Speaks the OCI distribution protocol to registries: authentication, redirects, retries, and hard checks of
// what comes back. Source: https://github.com/opencontainers/distribution-spec, version 1.1.
//
// A tag or digest is given as it stands in a reference ("v1", "sha256:..."). Errors, of all calls: NotFound
// (remembered for a few seconds), Unauthenticated, PermissionDenied (also refused redirects, addresses and
// certificates), OutOfRange, DataLoss (the answer is not what was promised), ResourceExhausted (over a
// bound), DeadlineExceeded, Unavailable (all else, after retries), FailedPrecondition (docker config),
// Cancelled (the client is gone). Their messages name the URL, without its query, and what to do; no secret
// is in them.
//
// Thread-safe. Calls that take a callback return at once; it is called exactly once, on a thread of the
// client's or of the executor, and must not block. The others block: not for use on those threads.
class RegistryClient {
 public:
  template <typename T>
  using Done = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;
  using OnData = BlobRead::OnData;
  using OnProgress = absl::AnyInvocable<void(uint64_t bytes_sent)>;

  struct Parts {
    const Clock& clock;
    Executor& executor;  // runs the short tasks that begin a retry
    Telemetry& telemetry;
  };

  // The parts outlive the client and the executor's tasks.
  RegistryClient(Parts parts, RegistryOptions options);
  // As Stop().
  ~RegistryClient();
  // Cancels what is under way, and what is asked for from now on. Idempotent.
  void Stop();
  // The right of who has these credentials for `registry`, as references name it. Tokens that are got by them
  // are kept with the grant, apart from this node's, and shown for what is asked by it alone.
  Grant LogIn(const std::string& registry, std::string username, Secret password);
  // Asks by that right what is asked with a null grant, and is this client in all else: they are stopped by
  // this one alone. It must not push. REQUIRES: grant
  std::unique_ptr<RegistryClient> By(Grant grant) const;
  RegistryClient(const RegistryClient&) = delete;
  RegistryClient& operator=(const RegistryClient&) = delete;

  // A manifest or index of at most kManifestBytesMax. Asked for by digest, its bytes are held against it; by
  // tag, they must match Docker-Content-Digest where the registry sends one.
  // `grant`, here and below: another's right (PullGrant), by which it is asked; null: this client's.
  void FetchManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                     const std::vector<std::string>& accept, Done<FetchedManifest> done,
                     const Grant& grant = nullptr);
  absl::StatusOr<FetchedManifest> FetchManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                                const std::vector<std::string>& accept);

  // Bytes `range` of a blob of `blob_size` bytes, to `on_data` in order. When `done` is OK exactly
  // range.length bytes were given. What was given before an error came from a well-formed answer, and may be
  // used. What it takes to get them is told to `on_access` before the first byte. Cancelled, it ends soon
  // with that error; dropping what is returned changes nothing. REQUIRES: range.length > 0, range.end() <=
  // blob_size
  using OnAccess = BlobRead::OnAccess;
  using RangeDone = BlobRead::Done;
  std::shared_ptr<FetchControl> ReadBlobRange(const BlobOrigin& origin, const Digest& digest,
                                              uint64_t blob_size, ByteRange range, FetchClass fetch_class,
                                              Instant deadline, OnAccess on_access, OnData on_data,
                                              RangeDone done, const Grant& grant = nullptr);

  // The same by a connection of its own. While `takes` says no, what comes stays on the way, until GoOn. With
  // a null `takes` as above.
  using Takes = absl::AnyInvocable<bool()>;
  std::shared_ptr<PacedControl> ReadBlobPaced(BlobRead read, Takes takes);
  // Runs `task` on the thread on which bytes are given, after `delay`. Once the client is stopped it is
  // dropped.
  void After(Duration delay, Task task);

  // Whether the registry has asked this node to come again later, by 429 or 503 with Retry-After, and that
  // time is not over.
  bool AsksForPatience(const std::string& registry) const;

  // The size of a blob, if the repository has it, and what it took to be told.
  struct BlobStat {
    uint64_t size = 0;
    OriginAccess access = OriginAccess::kUnknown;
  };
  void StatBlob(const BlobOrigin& origin, const Digest& digest, Done<BlobStat> done,
                const Grant& grant = nullptr);
  // The same, the size alone.
  void HeadBlob(const BlobOrigin& origin, const Digest& digest, Done<uint64_t> done);
  absl::StatusOr<uint64_t> HeadBlob(const BlobOrigin& origin, const Digest& digest);

  // A whole blob of at most `bytes_max` bytes, held against its digest: configs, recipes, bootstraps.
  void FetchWholeBlob(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                      Done<std::string> done);
  absl::StatusOr<std::string> FetchWholeBlob(const BlobOrigin& origin, const Digest& digest,
                                             uint64_t bytes_max);

  // The same, with its media type and what it took to get it.
  void FetchBlobDocument(const BlobOrigin& origin, const Digest& digest, uint64_t bytes_max,
                         Done<FetchedManifest> done, const Grant& grant = nullptr);

  // The index of all that refers to a manifest; an empty one if there is no such list.
  void FetchReferrers(const BlobOrigin& origin, const Digest& manifest, Done<FetchedManifest> done,
                      const Grant& grant = nullptr);

  // What refers to a manifest with the given artifact type; none is no error. Asks the referrers API (the
  // first page of its answer), and where there is none the tag sha256-<hex>. Blocks.
  absl::StatusOr<std::vector<Descriptor>> ListReferrers(const BlobOrigin& origin, const Digest& manifest,
                                                        const std::string& artifact_type);

  // What a registry says to somebody who shows these credentials, and nothing of this node's own.
  struct TenantAnswer {
    enum class Verdict {
      kGiven,       // that one may have it
      kChallenged,  // it must say who it is, or is not believed
      kDenied,
      kAbsent,
    };
    Verdict verdict = Verdict::kAbsent;
    std::string challenge = {};  // of kChallenged: the value of WWW-Authenticate
  };
  enum class Object { kManifest, kBlob };
  // Asks for the head of a manifest or blob with `authorization` as the value of Authorization, or without
  // one. Asked once, and no redirect is followed: of a blob it is an answer, unless strangers get one, too.
  // Errors: InvalidArgument, PermissionDenied (address), Unavailable, DeadlineExceeded, Cancelled; no secret
  // is in them.
  void AskAs(const std::string& authorization, const BlobOrigin& origin, Object object,
             const std::string& tag_or_digest, Duration timeout, Done<TenantAnswer> done);

  // The right of somebody who shows this value of Authorization: a bearer token, or a name and password (RFC
  // 7617). Other nodes are shown a token that says itself that it is good for pulling from that repository,
  // and for nothing else; whatever else it is goes to the registry alone. Null: it is neither.
  Grant RightOfTenant(const std::string& authorization, const BlobOrigin& origin);

  // A token that this registry's token server gives to strangers for pulling, with what is left of its life.
  // Errors also: NotFound (strangers need none, or get none).
  void AnonymousToken(const BlobOrigin& origin, Done<AccessToken> done);

  // This node's own rights to pull; lives as long as the client.
  PullRights& rights() { return *rights_; }

  // Uploads a blob unless the repository has it. A body beyond upload_chunk_bytes goes in chunks. A broken
  // upload is begun anew, within retries_max. `body.read` and `on_progress` (the count may go back when an
  // upload begins anew) are called on the client's thread. Blocks.
  absl::Status PushBlob(const BlobOrigin& origin, const Digest& digest, HttpBody body,
                        OnProgress on_progress);

  // Whether blobs may be pushed to a repository: begins an upload, and gives it up. Blocks. Errors: what a
  // push would fail with.
  absl::Status CheckPush(const BlobOrigin& origin);

  // Whether the repository has a blob; if it has not, it is asked to take it from `from`, another one of the
  // same registry, without its bytes. False if it has it still not: then it must be uploaded. Blocks. Source:
  // distribution specification, "Mounting a blob from another repository".
  absl::StatusOr<bool> TakeBlob(const BlobOrigin& origin, const Digest& digest, const BlobOrigin& from);

  // Uploads a manifest under a tag or its digest; returns its digest. If the manifest has a subject and the
  // registry doesn't say that it took note, the list at the tag sha256-<subject's hex> is extended (two
  // writers at once may lose one entry there: distribution specification, "Referrers Tag Schema"). Blocks.
  absl::StatusOr<Digest> PushManifest(const BlobOrigin& origin, const std::string& tag_or_digest,
                                      const std::string& media_type, const std::string& body);

 private:
  RegistryClient(std::shared_ptr<class RegistryCore> core, Grant grant);
  const Grant& RightOf(const Grant& asked) const { return asked ? asked : grant_; }

  const std::shared_ptr<class RegistryCore> core_;
  const Grant grant_;  // null: this node's own right
  const std::shared_ptr<PullRights> rights_;
};

// Of a NotFound of a registry: whether it was said to somebody who showed no credentials, so that it hides
// nothing.
bool IsToldToEverybody(const absl::Status& not_found);

// Those of an index of referrers that have the artifact type. Errors: DataLoss.
absl::StatusOr<std::vector<Descriptor>> ReferrersOfType(std::string_view index,
                                                        const std::string& artifact_type);

}  // namespace sluice::p2p
