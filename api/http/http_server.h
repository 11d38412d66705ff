#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "node/executor.h"
#include "node/proven_names.h"
#include "node/telemetry.h"
#include "node/tls/current_identity.h"

namespace sluice::api {

// Everything else is answered 405 before a handler sees it. HEAD is handled as GET; the server leaves the
// body out.
enum class HttpMethod { kGet, kHead, kPost };

using HttpHeaderList = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  HttpMethod method = HttpMethod::kGet;
  std::string path;   // as sent: percent escapes are not decoded, so an encoded slash never matches a route
  std::string query;  // what follows the '?', without it
  HttpHeaderList headers;
  std::string body;  // of a POST
  // Of the client, by its certificate.
  ProvenNames proven_names;

  // The first header of this name, case-insensitive (RFC 9110 section 5.1); empty if there is none.
  std::string_view Header(std::string_view name) const;
};

// What waits for bytes that are sent: somebody who reads, or nobody.
enum class SendUrgency { kDemand, kFill };

// Bytes of an open file, sent as they lie there: sendfile(2), without a copy in this process. If the file
// turns out to be shorter the connection is closed. Or bytes in memory.
struct FileSpan {
  int fd = -1;  // open for as long as `holder` lives; reads at offsets only
  uint64_t offset = 0;
  uint64_t length = 0;
  std::shared_ptr<const void> holder;
  // Told of each part that was handed to the network; may be null.
  std::function<void(uint64_t bytes)> on_sent;
  // Runs once the client's kernel has taken in all of it, at most once and before `holder` is let go of; may
  // be null. If the connection ends before that it never runs.
  Task on_taken;
  // Fills are sent when no demand is, as SendOrder says.
  SendUrgency urgency = SendUrgency::kDemand;
  const std::byte* memory = nullptr;  // in place of a file, for as long as `holder` lives
};

// The bytes of a body that come to be there one after the other.
class HttpParts {
 public:
  virtual ~HttpParts() = default;  // gives up what is under way
  // The bytes that follow those given before. `on_part` is called exactly once, on any thread, within bounded
  // time; with an error, the connection is closed, and nobody asks again. REQUIRES: the last call was
  // answered, and its bytes sent
  using OnPart = absl::AnyInvocable<void(absl::StatusOr<FileSpan>) &&>;
  virtual void Next(OnPart on_part) = 0;
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
  std::optional<FileSpan> file;  // instead of `body`
  // Instead of both: so many bytes, of which each part is not empty. Without parts it must be for a HEAD.
  std::optional<uint64_t> parts_length;
  std::unique_ptr<HttpParts> parts;
  HttpHeaderList headers;  // beside Content-Type and Content-Length
};

// One request and its answer, as the server sees them. The calls may come on any thread.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void Answer(HttpResponse response) = 0;
  virtual void Interim(unsigned status, HttpHeaderList headers) = 0;
  virtual void OnGone(Task gone) = 0;
};

// The promise to answer one request. Move-only; may be kept and answered later, on any thread. Dropped
// without an answer it answers 500. An answer that comes after the connection or the server has gone is
// discarded.
class HttpResponder {
 public:
  explicit HttpResponder(std::unique_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}
  HttpResponder(HttpResponder&&) noexcept = default;
  HttpResponder& operator=(HttpResponder&& other) noexcept {
    std::swap(exchange_, other.exchange_);
    return *this;
  }
  ~HttpResponder();

  // REQUIRES: not answered and not moved from; of all three.
  void Answer(HttpResponse response) &&;
  // Tells who waits that the answer is still to come, e.g. with 102; any number of times. Of those that
  // come while one is being sent, only the last is sent. Nothing is sent to a client of HTTP/1.0. Source: RFC
  // 9110 section 15.2. REQUIRES: 100 < status < 200, and it is not 101; no header has a line break
  void Interim(unsigned status, HttpHeaderList headers = {}) {
    exchange_->Interim(status, std::move(headers));
  }
  // `gone` runs on the server's thread, at most once and before the answer, when nobody waits for it any
  // more: the client has closed the connection, or the server has answered since it took too long. What comes
  // before this was called counts too. It is dropped with the answer, or the server. A later one replaces it.
  void OnGone(Task gone) { exchange_->OnGone(std::move(gone)); }

 private:
  std::unique_ptr<HttpExchange> exchange_;
};

// Runs on the server's one thread, so it must not block: a handler that has to wait keeps the responder.
using HttpHandler = absl::AnyInvocable<void(const HttpRequest&, HttpResponder)>;

// By exact path, e.g. "/metrics", or by all that a path begins with if it ends in a slash, e.g. "/v2/"; the
// longest that fits counts. A POST goes to "POST " and its exact path, e.g. "POST /sluice/v1/holders", and
// nowhere else.
using HttpRoutes = absl::flat_hash_map<std::string, HttpHandler>;

struct HttpLimits {
  uint32_t header_bytes_max = 16 << 10;  // request line and headers; beyond: 431
  uint32_t body_bytes_max = 1 << 20;     // of a POST; beyond: 413
  uint32_t connections_max = 256;        // beyond: 503 and closed
  // Where more are open an answer ends its connection, and the one whose client has been answered and asks
  // nothing for the longest goes for a new one.
  uint32_t connections_kept_max = UINT32_MAX;
  // Where there are connections_max, one without a request for so long makes room for a new one. 0: none
  // does.
  Duration idle_yields_after{};
  uint64_t file_bytes_per_s = 0;                         // of all files that are sent; 0: no bound
  Duration handshake_timeout = std::chrono::seconds(5);  // of TLS
  // To send a request, to take in an answer, or the next part of one from a file; of that 256 KiB in twice
  // the time.
  Duration idle_timeout = std::chrono::seconds(30);
  Duration handler_timeout = std::chrono::seconds(60);  // for a handler to answer; beyond: 503
};

// TLS, where every client must show a certificate that the identity accepts, unless anybody may ask: then
// handlers find out by something else who it is.
struct HttpTls {
  enum class Clients { kProven, kAnybody };
  std::shared_ptr<const tls::CurrentIdentity> identity;  // null: plain
  Telemetry* telemetry = nullptr;  // counts handshakes; outlives the server; may be null
  // Told who is refused for his certificate, now and then; on the server's thread. May be null.
  std::function<void(const std::string&)> warn;
  Clients clients = Clients::kProven;
};

// HTTP/1.1 on a thread of its own. Only a POST may carry a body, of a
// length that is known before (413).
class HttpServer {
 public:
  HttpServer(HttpRoutes routes, HttpLimits limits, HttpTls tls = {});
  ~HttpServer();  // stops
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Listens on "host:port", e.g. "127.0.0.1:9464", "[::]:9464", "localhost:0"; with port 0 the kernel
  // chooses. Errors: InvalidArgument (malformed, unknown host), AlreadyExists (port in use),
  // PermissionDenied, Unavailable (any other); FailedPrecondition if started already.
  absl::Status Start(std::string_view listen);

  // The port that is listened on. REQUIRES: Start returned OK.
  uint16_t port() const;

  // There is a new identity: connections of those whom it would refuse are closed. Thread-safe.
  void Recheck();

  // Closes all connections; waits for a handler that is running. Idempotent. Not on the server's own thread.
  void Stop();

 private:
  class Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace sluice::api
