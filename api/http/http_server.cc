#include "api/http/http_server.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>

#include <algorithm>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
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
#include "api/http/send_order.h"

namespace sluice::api {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// How often it is looked whether a client has taken in what was sent.
constexpr auto kDrainPoll = std::chrono::milliseconds(1);

// After accept() failed, e.g. for want of a file descriptor.
constexpr auto kAcceptRetryDelay = std::chrono::milliseconds(100);

constexpr std::string_view kTooManyConnections =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

absl::string_view View(beast::string_view text) {
  return {text.data(), text.size()};
}

HttpResponse PlainResponse(unsigned status, std::string text) {
  HttpResponse response;
  response.status = status;
  response.body = absl::StrCat(text, "\n");
  return response;
}

// Of a fill, in the socket and not sent yet: what comes next there stands behind no more than that.
constexpr int kFillUnsentBytes = 16 << 10;

Instant Now() {
  return std::chrono::steady_clock::now();
}

struct InterimAnswer {
  unsigned status = 0;
  HttpHeaderList headers;
};

std::string TextOf(const InterimAnswer& interim) {
  std::string text = absl::StrCat("HTTP/1.1 ", interim.status, " ",
                                  View(http::obsolete_reason(http::int_to_status(interim.status))), "\r\n");
  for (const auto& [name, value] : interim.headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  return text + "\r\n";
}

// Whether a session goes on after an answer. It can't after a request that was not read to its end.
enum class After { kKeepAlive, kClose };

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
  if (exchange_) std::move(*this).Answer(PlainResponse(500, "the request was dropped without an answer"));
}

void HttpResponder::Answer(HttpResponse response) && {
  const std::unique_ptr<HttpExchange> exchange = std::move(exchange_);
  exchange->Answer(std::move(response));
}

class HttpServer::Impl : public std::enable_shared_from_this<HttpServer::Impl> {
 public:
  Impl(HttpRoutes routes, HttpLimits limits)
      : limits_(limits),
        routes_(std::move(routes)),
        acceptor_(io_),
        accept_retry_(io_),
        held_timer_(io_),
        send_order_(limits.file_bytes_per_s, Now(), [this] { SendHeldLater(); }) {}
  ~Impl() { Stop(); }

  absl::Status Start(std::string_view listen);
  uint16_t port() const { return port_; }
  void Stop();

  // For responders: runs `task` on the server's thread, or drops it if that has ended.
  void Post(Task task) {
    asio::post(io_, [task = std::move(task)]() mutable { std::move(task)(); });
  }

 private:
  class Session;

  absl::Status Listen(std::string_view listen);
  HttpHandler* HandlerOf(std::string_view path);
  HttpHandler* FindPost(absl::string_view target);
  void Accept();
  void OnAccept(const error_code& error, tcp::socket socket);
  bool EndLongestIdle();
  void Hold(std::shared_ptr<Session> session, Instant until);
  void SendHeldLater();
  void SendHeld();

  // Constant after construction.
  const HttpLimits limits_;

  // Written by Start, constant afterwards.
  uint16_t port_ = 0;
  std::thread thread_;

  // Owned by the server's thread.
  HttpRoutes routes_;
  absl::flat_hash_set<Session*> sessions_;  // of all connections
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer accept_retry_;
  // Files that may not be sent on just now, in the order in which they will be.
  std::vector<std::shared_ptr<Session>> held_;
  asio::steady_timer held_timer_;
  Instant held_until_ = Instant::max();  // when they are looked at
  bool sends_held_ = false;              // a task does, soon
  SendOrder send_order_;
};

// One connection. Lives as long as an operation of its own is pending in the io_context.
class HttpServer::Impl::Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Impl& server, tcp::socket socket)
      : server_(server), stream_(std::move(socket)), handler_timer_(server.io_), drain_timer_(server.io_) {
    server_.sessions_.insert(this);
  }
  ~Session() { server_.sessions_.erase(this); }

  void ReadRequest() {
    parser_.emplace();
    parser_->header_limit(server_.limits_.header_bytes_max);
    // A body is refused by its announced length, so none of it is read that nobody wants.
    parser_->body_limit(server_.limits_.body_bytes_max);
    stream_.expires_after(server_.limits_.idle_timeout);
    idle_since_ = Now();
    http::async_read_header(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](const error_code& error, size_t) { self->OnHeader(error); });
  }

  // Nothing of it runs any more: a client that waits must not wait for the server to be destroyed, nor a file
  // that is being sent.
  void Close() {
    stream_.close();
    file_.reset();
    drained_.reset();
    parts_.reset();
    gone_ = nullptr;
    idle_since_.reset();
  }

  // Since when it has no request; nothing if it has one, or what it sent is not taken in yet.
  std::optional<Instant> idle_since() const { return drained_ ? std::nullopt : idle_since_; }
  // No-op if there is nothing left of it.
  void SendOn() {
    if (file_) SendFile(after_file_);
  }

 private:
  void OnHeader(const error_code& error);
  // Nobody is answered who has gone, or was silent for too long.
  void OnBadRequest(const error_code& error);
  void ReadBody();
  void Dispatch();
  class Exchange;

  HttpResponder MakeResponder();
  bool Awaits(uint64_t request_number) const { return awaiting_answer_ && request_number == request_number_; }
  void OnAnswer(uint64_t request_number, HttpResponse response);
  void OnTooLong(uint64_t request_number);
  void SendInterim(uint64_t request_number, InterimAnswer interim);
  void OnInterimSent(const error_code& error);
  void NotifyWhenGone(uint64_t request_number, Task gone);
  void AwaitGone(uint64_t request_number);
  bool HasGone();
  void Gone();
  void Write(HttpResponse response, After after);
  void OnWritten(const error_code& error, After after);
  void NextPart(After after);
  void OnPart(absl::StatusOr<FileSpan> part, After after);
  void StopParts();
  void TakeFile(FileSpan span);
  void SendFile(After after);
  void SendFileWhenWritable(After after);
  void AwaitTaken();
  std::optional<bool> IsTaken();
  void EndDrain();
  void OnAnswered(After after);

  Impl& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
  asio::steady_timer handler_timer_;
  // A file, with its turn to be sent.
  struct Outgoing {
    FileSpan span;
    std::unique_ptr<SendOrder::Turn> turn;
  };
  std::optional<Outgoing> file_;     // what is left to send of it
  std::optional<Outgoing> drained_;  // sent, and not taken in yet
  After after_file_ = After::kClose;
  int unsent_bytes_max_ = 0;  // as the socket was told; 0: it decides
  std::optional<Instant> idle_since_;
  std::unique_ptr<HttpParts> parts_;
  uint64_t parts_left_ = 0;
  asio::steady_timer drain_timer_;
  Instant drain_until_{};
  // Counts requests; a responder whose number is not the awaited one comes too late.
  uint64_t request_number_ = 0;
  bool awaiting_answer_ = false;
  // While an answer is awaited.
  Task gone_;                                  // null: nobody is to be told, or has been told already
  std::string interim_;                        // being sent; empty: none is
  std::optional<InterimAnswer> next_interim_;  // to be sent then
  std::optional<HttpResponse> answer_;         // waits for it
};

// Reaches a session only on the server's thread, and only while both are there.
class HttpServer::Impl::Session::Exchange final : public HttpExchange {
 public:
  Exchange(std::weak_ptr<Session> session, std::weak_ptr<Impl> server, uint64_t number)
      : session_(std::move(session)), server_(std::move(server)), number_(number) {}

  void Answer(HttpResponse response) override {
    Post([number = number_, response = std::move(response)](Session& session) mutable {
      session.OnAnswer(number, std::move(response));
    });
  }
  void Interim(unsigned status, HttpHeaderList headers) override {
    Post([number = number_, interim = InterimAnswer{status, std::move(headers)}](Session& session) mutable {
      session.SendInterim(number, std::move(interim));
    });
  }
  void OnGone(Task gone) override {
    Post([number = number_, gone = std::move(gone)](Session& session) mutable {
      session.NotifyWhenGone(number, std::move(gone));
    });
  }

 private:
  template <typename Then>
  void Post(Then then) {
    // The server first: a session may only be touched while its io_context is there.
    const std::shared_ptr<Impl> alive = server_.lock();
    if (!alive) return;
    alive->Post([session = session_, then = std::move(then)]() mutable {
      if (const auto self = session.lock()) then(*self);
    });
  }

  const std::weak_ptr<Session> session_;
  const std::weak_ptr<Impl> server_;
  const uint64_t number_;
};

void HttpServer::Impl::Session::OnBadRequest(const error_code& error) {
  if (error == http::error::header_limit) {
    return Write(PlainResponse(431, "the request's headers are too large"), After::kClose);
  }
  if (error == http::error::body_limit || error == http::error::unexpected_body) {
    return Write(PlainResponse(413, "the request's body is too large, or not allowed"), After::kClose);
  }
  const bool malformed = error.category() == http::make_error_code(http::error::bad_method).category() &&
                         error != http::error::end_of_stream;
  if (malformed)
    Write(PlainResponse(400, absl::StrCat("malformed request: ", error.message())), After::kClose);
}

void HttpServer::Impl::Session::OnHeader(const error_code& error) {
  idle_since_.reset();
  if (error) return OnBadRequest(error);
  // Who asks for more has got what it asked for before; who didn't wait for it harms nobody but itself.
  EndDrain();

  const http::verb method = parser_->get().method();
  if (method == http::verb::post && server_.FindPost(View(parser_->get().target()))) return ReadBody();
  if (method != http::verb::get && method != http::verb::head) {
    HttpResponse response = PlainResponse(405, "only GET and HEAD are allowed here");
    response.headers.emplace_back("Allow", "GET, HEAD");
    return Write(std::move(response), After::kClose);
  }
  if (parser_->chunked() || parser_->content_length().value_or(0) > 0) {
    return Write(PlainResponse(413, "a request may carry no body"), After::kClose);
  }
  if (parser_->get().target().empty() || parser_->get().target().front() != '/') {
    return Write(PlainResponse(400, "malformed request: the target must be a path"), After::kClose);
  }
  Dispatch();
}

void HttpServer::Impl::Session::ReadBody() {
  if (!parser_->content_length())
    return Write(PlainResponse(413, "the length of the request's body must be known before"), After::kClose);
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](const error_code& error, size_t) {
    if (error) return self->OnBadRequest(error);
    self->Dispatch();
  });
}

void HttpServer::Impl::Session::Dispatch() {
  const auto& message = parser_->get();
  HttpRequest request;
  request.method = message.method() == http::verb::head   ? HttpMethod::kHead
                   : message.method() == http::verb::post ? HttpMethod::kPost
                                                          : HttpMethod::kGet;
  request.body = message.body();
  const absl::string_view target = View(message.target());
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != absl::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message) {
    request.headers.emplace_back(std::string(View(field.name_string())), std::string(View(field.value())));
  }

  HttpResponder responder = MakeResponder();
  HttpHandler* const handler = request.method == HttpMethod::kPost ? server_.FindPost(View(message.target()))
                                                                   : server_.HandlerOf(request.path);
  if (handler == nullptr) {
    return std::move(responder).Answer(PlainResponse(404, "there is nothing at this path"));
  }
  (*handler)(request, std::move(responder));
}

HttpResponder HttpServer::Impl::Session::MakeResponder() {
  const uint64_t number = ++request_number_;
  awaiting_answer_ = true;
  stream_.expires_never();
  handler_timer_.expires_after(server_.limits_.handler_timeout);
  handler_timer_.async_wait([self = shared_from_this(), number](const error_code& error) {
    if (!error) self->OnTooLong(number);
  });
  return HttpResponder(std::make_unique<Exchange>(weak_from_this(), server_.weak_from_this(), number));
}

void HttpServer::Impl::Session::OnTooLong(uint64_t request_number) {
  if (!Awaits(request_number)) return;
  Gone();
  OnAnswer(request_number, PlainResponse(503, "the answer took too long"));
}

void HttpServer::Impl::Session::OnAnswer(uint64_t request_number, HttpResponse response) {
  if (!Awaits(request_number)) return;
  gone_ = nullptr;
  if (!interim_.empty()) {
    if (!answer_) answer_ = std::move(response);
    return;
  }
  awaiting_answer_ = false;
  handler_timer_.cancel();
  Write(std::move(response), parser_->get().keep_alive() ? After::kKeepAlive : After::kClose);
}

void HttpServer::Impl::Session::SendInterim(uint64_t request_number, InterimAnswer interim) {
  if (!Awaits(request_number) || answer_) return;
  // What was pipelined hides the end of the connection from AwaitGone.
  if (gone_ && HasGone()) return Gone();
  if (parser_->get().version() < 11) return;
  if (!interim_.empty()) {
    next_interim_ = std::move(interim);
    return;
  }
  interim_ = TextOf(interim);
  stream_.expires_after(server_.limits_.idle_timeout);
  asio::async_write(
      stream_, asio::buffer(interim_),
      [self = shared_from_this()](const error_code& error, size_t) { self->OnInterimSent(error); });
}

void HttpServer::Impl::Session::OnInterimSent(const error_code& error) {
  interim_.clear();
  stream_.expires_never();
  if (error) Gone();
  std::optional<InterimAnswer> next = std::exchange(next_interim_, std::nullopt);
  if (!answer_ && next && !error) SendInterim(request_number_, *std::move(next));
  if (!answer_) return;
  HttpResponse response = *std::move(answer_);
  answer_.reset();
  OnAnswer(request_number_, std::move(response));
}

void HttpServer::Impl::Session::NotifyWhenGone(uint64_t request_number, Task gone) {
  if (!Awaits(request_number) || answer_) return;
  gone_ = std::move(gone);
  AwaitGone(request_number);
}

// The end of the connection is something to read.
void HttpServer::Impl::Session::AwaitGone(uint64_t request_number) {
  stream_.socket().async_wait(tcp::socket::wait_read,
                              [weak = weak_from_this(), request_number](const error_code& error) {
                                const auto self = weak.lock();
                                if (!self || !self->Awaits(request_number)) return;
                                if (error || self->HasGone()) self->Gone();
                              });
}

bool HttpServer::Impl::Session::HasGone() {
  pollfd connection{stream_.socket().native_handle(), POLLRDHUP, 0};
  return ::poll(&connection, 1, 0) > 0;
}

void HttpServer::Impl::Session::Gone() {
  if (Task gone = std::exchange(gone_, nullptr)) std::move(gone)();
}

void HttpServer::Impl::Session::Write(HttpResponse response, After after) {
  response_ = {};
  response_.version(11);
  response_.result(response.status);
  response_.set(http::field::content_type, response.content_type);
  for (const auto& [name, value] : response.headers) response_.insert(name, value);
  response_.body() = std::move(response.body);
  file_.reset();
  if (response.file) TakeFile(*std::move(response.file));
  parts_ = std::move(response.parts);
  parts_left_ = response.parts_length.value_or(0);
  const uint64_t length = response.parts_length ? *response.parts_length
                          : file_               ? file_->span.length
                                                : response_.body().size();
  // What has no content says nothing of its length: RFC 9110 section 8.6.
  if (response.status != 304) response_.content_length(length);
  response_.keep_alive(after == After::kKeepAlive);
  serializer_.emplace(response_);

  stream_.expires_after(server_.limits_.idle_timeout);
  auto written = [self = shared_from_this(), after](const error_code& error, size_t) {
    self->OnWritten(error, after);
  };
  const bool head = parser_->is_header_done() && parser_->get().method() == http::verb::head;
  const bool header_only = head || file_ || parts_;
  if (file_ && (head || file_->span.length == 0)) file_.reset();
  if (head) parts_.reset();
  if (header_only) {
    http::async_write_header(stream_, *serializer_, std::move(written));
  } else {
    http::async_write(stream_, *serializer_, std::move(written));
  }
}

void HttpServer::Impl::Session::OnWritten(const error_code& error, After after) {
  if (error) return;
  if (file_) return SendFile(after);
  if (parts_) return NextPart(after);
  OnAnswered(after);
}

// Whoever closes the connection meanwhile is no longer waited for.
void HttpServer::Impl::Session::NextPart(After after) {
  stream_.expires_never();
  handler_timer_.expires_after(server_.limits_.handler_timeout);
  handler_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && self->handler_timer_.expiry() <= std::chrono::steady_clock::now()) self->Close();
  });
  stream_.socket().async_wait(tcp::socket::wait_read, [weak = weak_from_this()](const error_code&) {
    const auto self = weak.lock();
    if (self && self->parts_ && self->HasGone()) self->StopParts();
  });
  parts_->Next([weak = weak_from_this(), server = server_.weak_from_this(),
                after](absl::StatusOr<FileSpan> part) mutable {
    const std::shared_ptr<Impl> alive = server.lock();
    if (!alive) return;
    alive->Post([weak = std::move(weak), part = std::move(part), after]() mutable {
      if (const auto self = weak.lock()) self->OnPart(std::move(part), after);
    });
  });
}

void HttpServer::Impl::Session::OnPart(absl::StatusOr<FileSpan> part, After after) {
  if (!parts_) return;
  // The length was promised: only the end of the connection tells the truth.
  if (!part.ok() || part->length == 0 || part->length > parts_left_) return StopParts();
  handler_timer_.cancel();
  parts_left_ -= part->length;
  TakeFile(*std::move(part));
  if (parts_left_ == 0) parts_.reset();
  SendFile(after);
}

void HttpServer::Impl::Session::StopParts() {
  handler_timer_.cancel();
  Close();
}

void HttpServer::Impl::Session::TakeFile(FileSpan span) {
  const SendUrgency urgency = span.urgency;
  file_.emplace(
      Outgoing{std::move(span), std::make_unique<SendOrder::Turn>(server_.send_order_, urgency, Now())});
  const int unsent_max = urgency == SendUrgency::kFill ? kFillUnsentBytes : 0;
  if (unsent_max == std::exchange(unsent_bytes_max_, unsent_max)) return;
  (void)::setsockopt(stream_.socket().native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_max,
                     sizeof(unsent_max));
}

// As much as the socket takes, in slices, so that one connection on a fast network leaves room for others.
void HttpServer::Impl::Session::SendFile(After after) {
  FileSpan& span = file_->span;
  const uint64_t slice = server_.send_order_.MaySend(*file_->turn, span.length, Now());
  if (slice == 0) {
    after_file_ = after;
    return server_.Hold(shared_from_this(),
                        server_.send_order_.LookAgainAt(*file_->turn, span.length, Now()));
  }
  error_code error;
  stream_.socket().native_non_blocking(true, error);
  auto offset = static_cast<off_t>(span.offset);
  const ssize_t sent =
      ::sendfile(stream_.socket().native_handle(), span.fd, &offset, static_cast<size_t>(slice));
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return SendFileWhenWritable(after);
  // The file ended early, or the client has gone: the length was promised, so only the end of the connection
  // tells the truth.
  if (sent <= 0) return file_.reset();
  server_.send_order_.Sent(*file_->turn, static_cast<uint64_t>(sent), Now());
  span.offset += static_cast<uint64_t>(sent);
  span.length -= static_cast<uint64_t>(sent);
  if (span.on_sent) span.on_sent(static_cast<uint64_t>(sent));
  if (span.length > 0) return SendFileWhenWritable(after);
  if (span.on_taken) {
    drained_ = std::move(file_);
    drain_until_ = Now() + server_.limits_.idle_timeout;
    AwaitTaken();
  }
  file_.reset();
  if (parts_) return NextPart(after);
  OnAnswered(after);
}

// What sendfile(2) has returned from may be in the socket's buffer, megabytes of it; nobody tells when it has
// left it.
void HttpServer::Impl::Session::AwaitTaken() {
  if (!drained_) return;
  const std::optional<bool> taken = IsTaken();
  if (taken && *taken) return EndDrain();
  if (taken || std::chrono::steady_clock::now() > drain_until_) return drained_.reset();
  drain_timer_.expires_after(kDrainPoll);
  drain_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->AwaitTaken();
  });
}

// Nothing if that is not decided yet. Source: tcp(7), SIOCOUTQ: what was not acknowledged yet; of a
// connection that was reset it stays as it was.
std::optional<bool> HttpServer::Impl::Session::IsTaken() {
  int queued = 0;
  if (::ioctl(stream_.socket().native_handle(), SIOCOUTQ, &queued) != 0) return false;
  if (queued == 0) return true;
  pollfd connection{stream_.socket().native_handle(), 0, 0};
  if (::poll(&connection, 1, 0) > 0) return false;
  return std::nullopt;
}

void HttpServer::Impl::Session::EndDrain() {
  if (!drained_) return;
  drain_timer_.cancel();
  if (drained_->span.on_taken) std::move(drained_->span.on_taken)();
  drained_.reset();
}

// The stream's own timer covers its own operations only, so a wait has one beside it.
void HttpServer::Impl::Session::SendFileWhenWritable(After after) {
  handler_timer_.expires_after(server_.limits_.idle_timeout);
  handler_timer_.async_wait([weak = weak_from_this()](const error_code& error) {
    const auto self = weak.lock();
    // It may have been set anew since this was queued.
    if (error || !self || self->handler_timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->stream_.socket().cancel();
  });
  stream_.socket().async_wait(tcp::socket::wait_write,
                              [self = shared_from_this(), after](const error_code& error) {
                                self->handler_timer_.cancel();
                                if (error) return self->file_.reset();
                                self->SendFile(after);
                              });
}

void HttpServer::Impl::Session::OnAnswered(After after) {
  if (after == After::kKeepAlive) return ReadRequest();
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
}

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
  return absl::OkStatus();
}

void HttpServer::Impl::Stop() {
  io_.stop();
  if (thread_.joinable()) thread_.join();
  error_code ignored;
  acceptor_.close(ignored);
  for (Session* session : sessions_) session->Close();
  held_.clear();
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

HttpHandler* HttpServer::Impl::FindPost(absl::string_view target) {
  const auto found = routes_.find(absl::StrCat("POST ", target.substr(0, target.find('?'))));
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
  error_code ignored;
  if (sessions_.size() >= limits_.connections_max && !EndLongestIdle()) {
    // As much as fits into the socket's buffer, without waiting: one more session is what must not be.
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(kTooManyConnections.data(), kTooManyConnections.size()), ignored);
  } else {
    socket.set_option(tcp::no_delay(true), ignored);
    std::make_shared<Session>(*this, std::move(socket))->ReadRequest();
  }
  Accept();
}

// Whether there was one that makes room.
bool HttpServer::Impl::EndLongestIdle() {
  if (limits_.idle_yields_after == Duration()) return false;
  Session* longest = nullptr;
  Instant since = Now() - limits_.idle_yields_after;
  for (Session* session : sessions_) {
    const std::optional<Instant> idle_since = session->idle_since();
    if (!idle_since || *idle_since > since) continue;
    longest = session;
    since = *idle_since;
  }
  if (longest) longest->Close();
  return longest != nullptr;
}

void HttpServer::Impl::Hold(std::shared_ptr<Session> session, Instant until) {
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
  for (const std::shared_ptr<Session>& session : std::exchange(held_, {})) session->SendOn();
}

HttpServer::HttpServer(HttpRoutes routes, HttpLimits limits)
    : impl_(std::make_shared<Impl>(std::move(routes), limits)) {}

HttpServer::~HttpServer() {
  Stop();
}

absl::Status HttpServer::Start(std::string_view listen) {
  return impl_->Start(listen);
}

uint16_t HttpServer::port() const {
  return impl_->port();
}

void HttpServer::Stop() {
  impl_->Stop();
}

}  // namespace sluice::api
