#include "api/http/http_server.h"

#include <pthread.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "api/http/http_session.h"
#include "api/http/send_order.h"

namespace sluice::api {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Of lines that say who is refused: anybody may connect, as often as he likes.
constexpr auto kBetweenWarnings = std::chrono::seconds(10);

// After accept() failed, e.g. for want of a file descriptor.
constexpr auto kAcceptRetryDelay = std::chrono::milliseconds(100);

constexpr std::string_view kTooManyConnections =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

struct ListenAddress {
  std::string host;
  std::string port;
};

absl::StatusOr<ListenAddress> ParseListen(std::string_view listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(absl::string_view(listen.data() + colon + 1, listen.size() - colon - 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on \"",
                                                   absl::string_view(listen.data(), listen.size()),
                                                   "\": write it as host:port, e.g. 127.0.0.1:9464"));
  }
  std::string host(listen.substr(0, colon));
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  return ListenAddress{std::move(host), absl::StrCat(port)};
}

absl::Status TranslateListenError(std::string_view listen, const error_code& error) {
  const std::string what =
      absl::StrCat("cannot listen on ", absl::string_view(listen.data(), listen.size()), ": ");
  if (error == asio::error::address_in_use) {
    return absl::AlreadyExistsError(absl::StrCat(
        what, "the port is in use by another process; stop it (ss -ltnp shows it) or set another address"));
  }
  if (error == asio::error::access_denied) {
    return absl::PermissionDeniedError(absl::StrCat(what, "not permitted; ports below 1024 need root"));
  }
  if (error == asio::error::host_not_found || error == asio::error::host_not_found_try_again ||
      error == asio::error::service_not_found) {
    return absl::InvalidArgumentError(absl::StrCat(what, "unknown host"));
  }
  return absl::UnavailableError(absl::StrCat(what, error.message()));
}

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (absl::EqualsIgnoreCase(key, absl::string_view(name.data(), name.size()))) return value;
  }
  return {};
}

HttpResponder::~HttpResponder() {
  if (!exchange_) return;
  HttpResponse response;
  response.status = 500;
  response.body = "the request was dropped without an answer\n";
  std::move(*this).Answer(std::move(response));
}

void HttpResponder::Answer(HttpResponse response) && {
  const std::unique_ptr<HttpExchange> exchange = std::move(exchange_);
  exchange->Answer(std::move(response));
}

class HttpServer::Impl final : public HttpSessionHost, public std::enable_shared_from_this<HttpServer::Impl> {
 public:
  Impl(HttpRoutes routes, HttpLimits limits, HttpTls tls)
      : limits_(limits),
        tls_(std::move(tls)),
        routes_(std::move(routes)),
        acceptor_(io_),
        accept_retry_(io_),
        held_timer_(io_),
        send_order_(limits.file_bytes_per_s, std::chrono::steady_clock::now(), [this] { SendHeldLater(); }) {}
  ~Impl() override { Stop(); }

  absl::Status Start(std::string_view listen);
  uint16_t port() const { return port_; }
  void Recheck();
  void Stop();

  HttpHandler* HandlerOf(std::string_view path) override;
  HttpHandler* PostHandlerOf(std::string_view target) override;
  void OnHandshake(HttpConnection& connection, const error_code& error) override;
  void OnEnd(HttpSession& session) override { sessions_.erase(&session); }
  bool KeepsConnections() const override { return sessions_.size() <= limits_.connections_kept_max; }
  SendOrder& send_order() override { return send_order_; }
  void Hold(std::shared_ptr<HttpSession> session, Instant until) override;
  void Post(Task task) override {
    asio::post(io_, [task = std::move(task)]() mutable { std::move(task)(); });
  }

 private:
  absl::Status Listen(std::string_view listen);
  void Accept();
  void OnAccept(const error_code& error, tcp::socket socket);
  HttpSession* YieldsNow() const;
  void RefuseOne(tcp::socket socket);
  void SendHeldLater();
  void SendHeld();
  void RecheckHere();
  void NoteHandshake(TlsResult result);
  void WarnOfRefusal(HttpConnection& connection, const std::string& why);

  // Constant after construction.
  const HttpLimits limits_;
  const HttpTls tls_;

  // Written by Start, constant afterwards.
  uint16_t port_ = 0;
  std::thread thread_;

  // Owned by the server's thread.
  HttpRoutes routes_;
  absl::flat_hash_set<HttpSession*> sessions_;  // of all connections
  Instant next_warning_{};
  uint64_t refusals_untold_ = 0;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer accept_retry_;
  // Files that may not be sent on just now, in the order in which they will be.
  std::vector<std::shared_ptr<HttpSession>> held_;
  asio::steady_timer held_timer_;
  Instant held_until_ = Instant::max();  // when they are looked at
  bool sends_held_ = false;              // a task does, soon
  SendOrder send_order_;
};

absl::Status HttpServer::Impl::Listen(std::string_view listen) {
  absl::StatusOr<ListenAddress> address = ParseListen(listen);
  if (!address.ok()) return address.status();
  error_code error;
  const auto found = tcp::resolver(io_).resolve(address->host, address->port, tcp::resolver::passive, error);
  if (error) return TranslateListenError(listen, error);
  const tcp::endpoint endpoint = *found.begin();
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (!error) port_ = acceptor_.local_endpoint(error).port();
  if (!error) return absl::OkStatus();
  error_code ignored;
  acceptor_.close(ignored);
  return TranslateListenError(listen, error);
}

absl::Status HttpServer::Impl::Start(std::string_view listen) {
  if (thread_.joinable() || io_.stopped()) {
    return absl::FailedPreconditionError("the HTTP server was started before");
  }
  if (absl::Status status = Listen(listen); !status.ok()) return status;
  Accept();
  thread_ = std::thread([this] {
    // Signals are the main thread's; what sendfile(2) meets when a client has gone comes back as an error.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    io_.run();
  });
  pthread_setname_np(thread_.native_handle(), "http-server");
  return absl::OkStatus();
}

void HttpServer::Impl::Stop() {
  io_.stop();
  if (thread_.joinable()) thread_.join();
  error_code ignored;
  acceptor_.close(ignored);
  for (HttpSession* session : sessions_) session->Close();
  held_.clear();
}

void HttpServer::Impl::Recheck() {
  Post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->RecheckHere();
  });
}

void HttpServer::Impl::RecheckHere() {
  if (!tls_.identity) return;
  const std::shared_ptr<const tls::Identity> identity = tls_.identity->Get();
  std::vector<std::shared_ptr<HttpSession>> refused;
  for (HttpSession* session : sessions_) {
    // One that still shakes hands is looked at by what it began with, and has no name yet.
    if (session->connection().peer().not_after != 0 && !session->connection().IsAcceptedBy(*identity))
      refused.push_back(session->shared_from_this());
  }
  for (const std::shared_ptr<HttpSession>& session : refused) {
    WarnOfRefusal(session->connection(), "it was revoked, or its authority is trusted no more");
    session->Abort();
  }
}

void HttpServer::Impl::OnHandshake(HttpConnection& connection, const error_code& error) {
  if (!error) return NoteHandshake(TlsResult::kOk);
  std::string why = connection.Refusal();
  NoteHandshake(why.empty() ? TlsResult::kFailed : TlsResult::kRefused);
  if (!why.empty()) WarnOfRefusal(connection, why);
}

void HttpServer::Impl::NoteHandshake(TlsResult result) {
  if (!tls_.telemetry) return;
  tls_.telemetry->tls_handshakes[static_cast<size_t>(TlsSide::kServer)][static_cast<size_t>(result)].Add();
}

void HttpServer::Impl::WarnOfRefusal(HttpConnection& connection, const std::string& why) {
  ++refusals_untold_;
  const Instant now = std::chrono::steady_clock::now();
  if (!tls_.warn || now < next_warning_) return;
  error_code error;
  const tcp::endpoint from = connection.tcp().socket().remote_endpoint(error);
  tls_.warn(absl::StrCat("a connection from ", error ? std::string("?") : from.address().to_string(),
                         " is refused for its certificate: ", why, " (", refusals_untold_,
                         " since this was told last)"));
  refusals_untold_ = 0;
  next_warning_ = now + kBetweenWarnings;
}

// Null if there is none. Routes are few, and a path may have thousands of slashes.
HttpHandler* HttpServer::Impl::HandlerOf(std::string_view path) {
  size_t longest = 0;
  HttpHandler* handler = nullptr;
  for (auto& [route, candidate] : routes_) {
    const bool fits = route == path || (route.ends_with('/') && path.starts_with(route));
    if (!fits || route.size() < longest) continue;
    longest = route.size();
    handler = &candidate;
  }
  return handler;
}

HttpHandler* HttpServer::Impl::PostHandlerOf(std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  const auto found = routes_.find(absl::StrCat("POST ", absl::string_view(path.data(), path.size())));
  return found == routes_.end() ? nullptr : &found->second;
}

void HttpServer::Impl::Accept() {
  acceptor_.async_accept(
      [this](const error_code& error, tcp::socket socket) { OnAccept(error, std::move(socket)); });
}

void HttpServer::Impl::OnAccept(const error_code& error, tcp::socket socket) {
  if (error == asio::error::operation_aborted) return;
  if (error) {
    accept_retry_.expires_after(kAcceptRetryDelay);
    accept_retry_.async_wait([this](const error_code& cancelled) {
      if (!cancelled) Accept();
    });
    return;
  }
  HttpSession* const yields = YieldsNow();
  if (yields) yields->Close();
  if (!yields && sessions_.size() >= limits_.connections_max) {
    RefuseOne(std::move(socket));
  } else {
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const auto session =
        std::make_shared<HttpSession>(weak_from_this(), *this, io_, limits_, std::move(socket),
                                      tls_.identity ? tls_.identity->Get() : nullptr);
    if (tls_.identity && tls_.clients == HttpTls::Clients::kAnybody)
      session->connection().AskForNoCertificate();
    sessions_.insert(session.get());
    session->Start();
  }
  Accept();
}

// The connection that goes for a new one; null: none does, or none has to.
HttpSession* HttpServer::Impl::YieldsNow() const {
  const bool is_full = sessions_.size() >= limits_.connections_max && limits_.idle_yields_after > Duration();
  const bool is_beyond = sessions_.size() >= limits_.connections_kept_max;
  if (!is_full && !is_beyond) return nullptr;
  const Instant long_ago = std::chrono::steady_clock::now() - limits_.idle_yields_after;
  HttpSession* longest = nullptr;
  for (HttpSession* session : sessions_) {
    const std::optional<Instant> since = session->idle_since();
    if (!since || (longest && *since >= *longest->idle_since())) continue;
    if ((is_full && *since <= long_ago) || (is_beyond && session->was_asked())) longest = session;
  }
  return longest;
}

void HttpServer::Impl::Hold(std::shared_ptr<HttpSession> session, Instant until) {
  held_.push_back(std::move(session));
  if (until >= held_until_) return;
  held_until_ = until;
  held_timer_.expires_at(std::chrono::time_point_cast<asio::steady_timer::duration>(until));
  held_timer_.async_wait([this](const error_code& error) {
    if (!error) SendHeld();
  });
}

// Not at once: a turn ends in the midst of whatever else.
void HttpServer::Impl::SendHeldLater() {
  if (held_.empty() || std::exchange(sends_held_, true)) return;
  asio::post(io_, [this] { SendHeld(); });
}

void HttpServer::Impl::SendHeld() {
  sends_held_ = false;
  held_until_ = Instant::max();
  held_timer_.cancel();
  for (const std::shared_ptr<HttpSession>& session : std::exchange(held_, {})) session->SendOn();
}

// As much as fits into the socket's buffer, without waiting: one more session is what must not be. By TLS
// nothing can be said that soon.
void HttpServer::Impl::RefuseOne(tcp::socket socket) {
  if (tls_.identity) return;
  error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(kTooManyConnections.data(), kTooManyConnections.size()), ignored);
}

HttpServer::HttpServer(HttpRoutes routes, HttpLimits limits, HttpTls tls)
    : impl_(std::make_shared<Impl>(std::move(routes), limits, std::move(tls))) {}

HttpServer::~HttpServer() {
  Stop();
}

absl::Status HttpServer::Start(std::string_view listen) {
  return impl_->Start(listen);
}

uint16_t HttpServer::port() const {
  return impl_->port();
}

void HttpServer::Recheck() {
  impl_->Recheck();
}

void HttpServer::Stop() {
  impl_->Stop();
}

}  // namespace sluice::api
