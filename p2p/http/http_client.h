#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/chunk_source.h"
#include "node/executor.h"
#include "node/proven_names.h"
#include "node/telemetry.h"
#include "p2p/http/peer_tls.h"

namespace sluice::p2p {

// Header fields in the order they came. Names are compared without regard to case.
class HttpHeaders {
 public:
  void Add(std::string_view name, std::string_view value) { fields_.emplace_back(name, value); }
  // The first field of that name. The view lives as long as the headers do.
  std::optional<std::string_view> Get(std::string_view name) const;
  std::vector<std::string_view> All(std::string_view name) const;
  const std::vector<std::pair<std::string, std::string>>& fields() const { return fields_; }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

struct HttpHead {
  int status = 0;
  HttpHeaders headers;
  ProvenNames proven_names{};  // of who answers, if it is a peer
};

// What a request uploads. `read` fills `out` from `offset` on, wholly or up to the end of the body, and
// returns how much it put there; it is called on the client's thread, may be called again for an earlier
// offset, and an error from it ends the request.
struct HttpBody {
  using Reader = absl::AnyInvocable<absl::StatusOr<size_t>(uint64_t offset, std::span<std::byte> out)>;

  uint64_t size = 0;
  std::shared_ptr<Reader> read;  // shared: a request that is sent again reads it again

  static HttpBody FromString(std::string bytes);
  // `length` bytes of a file from `offset` on. The descriptor stays the caller's, and open until the request
  // is done.
  static HttpBody FromFile(int fd, uint64_t offset, uint64_t length);
};

// May a request connect to this machine's own loopback addresses? Only one that goes to a registry which the
// user himself named so may; otherwise a registry could make the node speak to its own neighbours.
// Link-local, multicast and unspecified addresses are refused always. A loopback proxy from the environment
// is allowed.
enum class LoopbackRule { kRefuse, kAllow };

// Whether the environment's proxy is used. Other nodes are always reached directly.
enum class ProxyRule { kEnvironment, kNone };

struct HttpRequest {
  std::string method = "GET";
  std::string url;  // http or https
  // The node that it goes to, whatever host the URL names; that must be its identity's peer name, by https.
  std::optional<HttpPeer> peer;
  HttpHeaders headers;
  std::optional<HttpBody> body;
  LoopbackRule loopback = LoopbackRule::kRefuse;
  ProxyRule proxy = ProxyRule::kEnvironment;
  // By HTTP/1.1, on a connection that meanwhile is nobody else's: what its sink does not take stays on the
  // way, and holds up no other.
  bool own_connection = false;
  // Among requests that wait for their turn, the higher goes first. Fills have connections of their own,
  // which have no more on their way than ReceiveBounds says.
  FetchClass fetch_class = FetchClass::kDemand;
  Duration timeout = std::chrono::seconds(60);  // from Send to OnDone, time in the queue included
  // A transfer that is slower than this over the window is aborted; 0 turns the check off. The time before
  // the answer counts, however many interim answers come in it.
  uint64_t rate_min_bytes_per_s = 0;
  Duration rate_window = std::chrono::seconds(20);  // whole seconds, at least one
  // Whether the time counts only from the final head on: a server that says that it is still waiting is
  // bounded by silence_max.
  bool rate_from_head = false;
  // A transfer of which no byte came for so long, from when its turn came, is aborted (Unavailable); an
  // interim answer is a byte. If meanwhile nothing came of the whole host, so are all others to it that have
  // such a bound. 0: never.
  Duration silence_max{};
  // The same, shorter, for the first byte of all, and for this transfer alone; 0: as silence_max.
  Duration first_silence_max{};
  // How long a host of which meanwhile nothing comes may take to take a connection; beyond, it is silent as
  // above. That is its kernel's work, however busy it is. A third of it is for the first of two dials, of
  // which a packet may be lost, and be sent again only after a second (RFC 6298). 0: as silence_max.
  Duration dial_silence_max{};
  uint64_t body_bytes_max = 1 << 20;  // of the answer
  // Without the headers that say who asks and what may be answered: the server knows.
  bool is_brief = false;
};

// Takes an answer. All calls come on the client's thread, in this order: OnInterim any number of times,
// OnHead at most once, OnBody any number of times, OnDone exactly once, after which the client destroys the
// sink. None may block for long; each may call Send and Cancel.
class HttpSink {
 public:
  virtual ~HttpSink() = default;

  // An interim answer, e.g. 102: the server is there, and the answer still to come.
  virtual void OnInterim(const HttpHead&) {}
  // The final status and headers. An error aborts the request and comes back in OnDone.
  virtual absl::Status OnHead(const HttpHead& head) = 0;
  // Whether it takes more of the body now. If it does not, what comes stays on the way until GoOn; that time
  // counts as the rest does. For requests with a connection of their own.
  virtual bool Takes() { return true; }
  // The next bytes of the body; valid during the call only. An error aborts as above.
  virtual absl::Status OnBody(std::span<const std::byte> bytes) = 0;
  // OK: the answer ended as its framing promised. Errors: what the sink or the body's reader said;
  // Unavailable (resolving, connecting, TLS, body cut short, too slow), DeadlineExceeded, ResourceExhausted
  // (queue full, body too long, too many interim answers), PermissionDenied (address refused, certificate not
  // trusted, or of another node), DataLoss (not HTTP), InvalidArgument (URL), Cancelled.
  virtual void OnDone(absl::Status status) = 0;
};

struct HttpClientOptions {
  std::string ca_file;  // PEM; empty: the system's
  std::string user_agent = "sluice";
  Duration connect_timeout = std::chrono::seconds(10);
  // Under way at once, per scheme, host and port, or peer's address. Those for one path may not be more than
  // they leave free for others: half of it if they are alone. Of this and the next a quarter is kept for what
  // is not a fill's.
  uint32_t requests_per_host_max = 32;
  uint32_t requests_max = 256;  // under way at once
  // Connections that are kept with nothing under way over them, of fills and of all else each. Beyond, the
  // one that has been unused for longest goes, with each that is made and each that gets free.
  uint32_t connections_idle_max = 32;
  uint32_t queue_max = 4096;       // waiting for their turn; beyond it Send answers ResourceExhausted
  Telemetry* telemetry = nullptr;  // counts handshakes with peers; outlives the client; may be null
};

// An HTTP/1.1 and HTTP/2 client on one thread of its own (a libcurl multi handle). Some connections are kept
// and reused; certificates are always verified; proxies come from the environment as libcurl-env(3)
// describes, but hosts that name loopback are reached directly. Redirects are not followed: their 3xx answer
// is given to the sink.
//
// Thread-safe.
class HttpClient {
 public:
  using RequestId = uint64_t;

  // Of the error that a request ended with: the host is there, and nobody listens at that port of it.
  static bool WasRefused(const absl::Status& status);

  explicit HttpClient(HttpClientOptions options);
  // As Stop().
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Returns at once. After Stop, OnDone(Cancelled) comes on the calling thread.
  RequestId Send(HttpRequest request, std::unique_ptr<HttpSink> sink);
  // OnDone(Cancelled) follows on the client's thread, unless the request is done already.
  void Cancel(RequestId id);
  // A request that waits for its turn waits in this class from now on, if that is higher.
  void Raise(RequestId id, FetchClass fetch_class);
  // Its sink takes more again. No-op if it always did.
  void GoOn(RequestId id);
  // Runs `task` on the client's thread after `delay`, for deadlines of who waits for an answer. After Stop it
  // is dropped. It must not block.
  void After(Duration delay, Task task);
  // Cancels everything and ends the thread. Idempotent. REQUIRES: not called on the client's thread.
  void Stop();

 private:
  class Loop;
  const std::unique_ptr<Loop> loop_;
};

}  // namespace sluice::p2p
