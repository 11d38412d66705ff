#include "api/http/http_session.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sluice::api {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// How soon it is looked again whether a client has taken in what was sent: after half of the time that the
// rest will need at the rate so far.
constexpr Duration kDrainPollMin = std::chrono::milliseconds(1);
constexpr Duration kDrainPollMax = std::chrono::milliseconds(8);

// A client must take so much in twice the idle timeout, of the time that it is waited for.
constexpr uint64_t kPatientBytes = 256 << 10;

// How often it is looked whether a client has gone that left something to read.
constexpr auto kGonePoll = std::chrono::milliseconds(50);

// Of a fill, in the socket and not sent yet: what comes next there stands behind no more than that.
constexpr int kFillUnsentBytes = 32 << 10;

// Of a file, sent in one go by TLS, read by this thread as sendfile(2) reads: it is in the page cache as a
// rule, and where it is not a disk takes no longer for so much than for the pages that sendfile would wait
// for.
constexpr uint64_t kTlsSliceBytes = 64 << 10;

// A client that does not end TLS on its side is not waited for.
constexpr auto kEndTimeout = std::chrono::seconds(1);

absl::string_view View(beast::string_view text) {
  return {text.data(), text.size()};
}
std::string_view Std(beast::string_view text) {
  return {text.data(), text.size()};
}

HttpResponse PlainResponse(unsigned status, std::string text) {
  HttpResponse response;
  response.status = status;
  response.body = absl::StrCat(text, "\n");
  return response;
}

Instant Now() {
  return std::chrono::steady_clock::now();
}

int64_t SecondsSince1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// The status line and these headers; the empty line that ends them is not there yet.
std::string HeadOf(unsigned status, const HttpHeaderList& headers) {
  std::string head = absl::StrCat("HTTP/1.1 ", status, " ",
                                  View(http::obsolete_reason(http::int_to_status(status))), "\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  return head;
}

// The first bytes that there are, into all of `into`; as read(2) says.
ssize_t ReadSpan(const FileSpan& span, std::string& into) {
  if (span.memory != nullptr) {
    std::memcpy(into.data(), span.memory + span.offset, into.size());
    return static_cast<ssize_t>(into.size());
  }
  ssize_t read = -1;
  do {
    read = ::pread(span.fd, into.data(), into.size(), static_cast<off_t>(span.offset));
  } while (read < 0 && errno == EINTR);
  return read;
}

}  // namespace

// Reaches a session only on the server's thread, and only while both are there.
class HttpSession::Exchange final : public HttpExchange {
 public:
  Exchange(std::weak_ptr<HttpSession> session, std::weak_ptr<HttpSessionHost> server, uint64_t number)
      : session_(std::move(session)), server_(std::move(server)), number_(number) {}

  void Answer(HttpResponse response) override {
    Post([number = number_, response = std::move(response)](HttpSession& session) mutable {
      session.OnAnswer(number, std::move(response));
    });
  }
  void Interim(unsigned status, HttpHeaderList headers) override {
    Post([number = number_, interim = InterimAnswer{status, std::move(headers)}](
             HttpSession& session) mutable { session.SendInterim(number, std::move(interim)); });
  }
  void OnGone(Task gone) override {
    Post([number = number_, gone = std::move(gone)](HttpSession& session) mutable {
      session.NotifyWhenGone(number, std::move(gone));
    });
  }

 private:
  template <typename Then>
  void Post(Then then) {
    // The server first: a session may only be touched while its io_context is there.
    const std::shared_ptr<HttpSessionHost> alive = server_.lock();
    if (!alive) return;
    alive->Post([session = session_, then = std::move(then)]() mutable {
      if (const auto self = session.lock()) then(*self);
    });
  }

  const std::weak_ptr<HttpSession> session_;
  const std::weak_ptr<HttpSessionHost> server_;
  const uint64_t number_;
};

HttpSession::HttpSession(std::weak_ptr<HttpSessionHost> host, HttpSessionHost& alive, asio::io_context& io,
                         const HttpLimits& limits, HttpConnection::Socket socket,
                         std::shared_ptr<const tls::Identity> identity)
    : host_(std::move(host)),
      server_(alive),
      limits_(limits),
      connection_(std::move(socket), std::move(identity)),
      handler_timer_(io),
      drain_timer_(io),
      gone_timer_(io) {}

HttpSession::~HttpSession() {
  server_.OnEnd(*this);
}

void HttpSession::Start() {
  if (!connection_.is_tls()) return ReadRequest();
  connection_.tcp().expires_after(limits_.handshake_timeout);
  connection_.Handshake([self = shared_from_this()](const error_code& error) {
    self->server_.OnHandshake(self->connection_, error);
    if (error) return;
    self->connection_.NotePeer();
    self->ReadRequest();
  });
}

void HttpSession::ReadRequest() {
  parser_.emplace();
  parser_->header_limit(limits_.header_bytes_max);
  // A body is refused by its announced length, so none of it is read that nobody wants.
  parser_->body_limit(limits_.body_bytes_max);
  connection_.tcp().expires_after(limits_.idle_timeout);
  idle_since_ = Now();
  http::async_read_header(
      connection_, buffer_, *parser_,
      [self = shared_from_this()](const error_code& error, size_t) { self->OnHeader(error); });
}

void HttpSession::Close() {
  connection_.tcp().close();
  file_.reset();
  drained_.reset();
  parts_.reset();
  gone_ = nullptr;
  idle_since_.reset();
}

void HttpSession::SendOn() {
  if (file_) SendFile(after_file_);
}

void HttpSession::Abort() {
  Gone();
  handler_timer_.cancel();
  drain_timer_.cancel();
  gone_timer_.cancel();
  Close();
}

void HttpSession::OnBadRequest(const error_code& error) {
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

void HttpSession::OnHeader(const error_code& error) {
  idle_since_.reset();
  if (error) return OnBadRequest(error);
  // A connection may be kept for days. Who has a newer certificate comes again with that.
  if (connection_.is_proven() && connection_.peer().not_after < SecondsSince1970()) return;
  // Who asks for more has got what it asked for before; who didn't wait for it harms nobody but itself.
  EndDrain();

  const http::verb method = parser_->get().method();
  if (method == http::verb::post && server_.PostHandlerOf(Std(parser_->get().target()))) return ReadBody();
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

void HttpSession::ReadBody() {
  if (!parser_->content_length())
    return Write(PlainResponse(413, "the length of the request's body must be known before"), After::kClose);
  http::async_read(connection_, buffer_, *parser_,
                   [self = shared_from_this()](const error_code& error, size_t) {
                     if (error) return self->OnBadRequest(error);
                     self->Dispatch();
                   });
}

HttpRequest HttpSession::MakeRequest() const {
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
  request.proven_names = connection_.peer().names;
  return request;
}

void HttpSession::Dispatch() {
  const HttpRequest request = MakeRequest();
  HttpResponder responder = MakeResponder();
  HttpHandler* const handler = request.method == HttpMethod::kPost
                                   ? server_.PostHandlerOf(Std(parser_->get().target()))
                                   : server_.HandlerOf(request.path);
  if (handler == nullptr) {
    return std::move(responder).Answer(PlainResponse(404, "there is nothing at this path"));
  }
  (*handler)(request, std::move(responder));
}

HttpResponder HttpSession::MakeResponder() {
  const uint64_t number = ++request_number_;
  awaiting_answer_ = true;
  connection_.tcp().expires_never();
  handler_timer_.expires_after(limits_.handler_timeout);
  handler_timer_.async_wait([self = shared_from_this(), number](const error_code& error) {
    if (!error) self->OnTooLong(number);
  });
  return HttpResponder(std::make_unique<Exchange>(weak_from_this(), host_, number));
}

void HttpSession::OnTooLong(uint64_t request_number) {
  if (!Awaits(request_number)) return;
  Gone();
  OnAnswer(request_number, PlainResponse(503, "the answer took too long"));
}

void HttpSession::OnAnswer(uint64_t request_number, HttpResponse response) {
  if (!Awaits(request_number)) return;
  gone_ = nullptr;
  if (!interim_.empty()) {
    if (!answer_) answer_ = std::move(response);
    return;
  }
  awaiting_answer_ = false;
  handler_timer_.cancel();
  const bool goes_on = parser_->get().keep_alive() && server_.KeepsConnections();
  Write(std::move(response), goes_on ? After::kKeepAlive : After::kClose);
}

std::string HttpSession::TextOf(const InterimAnswer& interim) {
  return HeadOf(interim.status, interim.headers) + "\r\n";
}

void HttpSession::SendInterim(uint64_t request_number, InterimAnswer interim) {
  if (!Awaits(request_number) || answer_) return;
  // What was pipelined hides the end of the connection from AwaitGone.
  if (gone_ && HasGone()) return Gone();
  if (parser_->get().version() < 11) return;
  if (!interim_.empty()) {
    next_interim_ = std::move(interim);
    return;
  }
  interim_ = TextOf(interim);
  connection_.tcp().expires_after(limits_.idle_timeout);
  asio::async_write(
      connection_, asio::buffer(interim_),
      [self = shared_from_this()](const error_code& error, size_t) { self->OnInterimSent(error); });
}

void HttpSession::OnInterimSent(const error_code& error) {
  interim_.clear();
  connection_.tcp().expires_never();
  if (error) Gone();
  std::optional<InterimAnswer> next = std::exchange(next_interim_, std::nullopt);
  if (!answer_ && next && !error) SendInterim(request_number_, *std::move(next));
  if (!answer_) return;
  HttpResponse response = *std::move(answer_);
  answer_.reset();
  OnAnswer(request_number_, std::move(response));
}

void HttpSession::NotifyWhenGone(uint64_t request_number, Task gone) {
  if (!Awaits(request_number) || answer_) return;
  gone_ = std::move(gone);
  AwaitGone(request_number);
}

// The end of the connection is something to read.
void HttpSession::AwaitGone(uint64_t request_number) {
  connection_.tcp().socket().async_wait(tcp::socket::wait_read,
                                        [weak = weak_from_this(), request_number](const error_code& error) {
                                          const auto self = weak.lock();
                                          if (!self || !self->Awaits(request_number)) return;
                                          if (error || self->HasGone()) return self->Gone();
                                          self->LookForGoneLater(request_number);
                                        });
}

// What can be read before the end stays there until the answer: a request that was sent ahead, or how a
// client ends TLS.
void HttpSession::LookForGoneLater(uint64_t request_number) {
  if (!gone_) return;
  gone_timer_.expires_after(kGonePoll);
  gone_timer_.async_wait([weak = weak_from_this(), request_number](const error_code& error) {
    const auto self = weak.lock();
    if (error || !self || !self->Awaits(request_number)) return;
    if (self->HasGone()) return self->Gone();
    self->LookForGoneLater(request_number);
  });
}

bool HttpSession::HasGone() {
  pollfd connection{connection_.tcp().socket().native_handle(), POLLRDHUP, 0};
  return ::poll(&connection, 1, 0) > 0;
}

void HttpSession::Gone() {
  if (Task gone = std::exchange(gone_, nullptr)) std::move(gone)();
}

void HttpSession::Write(HttpResponse response, After after) {
  body_ = std::move(response.body);
  file_.reset();
  if (response.file) TakeFile(*std::move(response.file));
  parts_ = std::move(response.parts);
  parts_left_ = response.parts_length.value_or(0);
  const uint64_t length = response.parts_length ? *response.parts_length
                          : file_               ? file_->span.length
                                                : body_.size();
  head_ = HeadOf(response.status, response.headers);
  if (!response.content_type.empty())
    absl::StrAppend(&head_, "Content-Type: ", response.content_type, "\r\n");
  // What has no content says nothing of its length: RFC 9110 section 8.6.
  if (response.status != 304) absl::StrAppend(&head_, "Content-Length: ", length, "\r\n");
  // A client of HTTP/1.0 waits for the connection's end unless it is told otherwise: RFC 9112 section 9.3.
  if (after == After::kClose) {
    absl::StrAppend(&head_, "Connection: close\r\n");
  } else if (parser_->get().version() < 11) {
    absl::StrAppend(&head_, "Connection: keep-alive\r\n");
  }
  absl::StrAppend(&head_, "\r\n");

  connection_.tcp().expires_after(limits_.idle_timeout);
  auto written = [self = shared_from_this(), after](const error_code& error, size_t) {
    self->OnWritten(error, after);
  };
  const bool head = parser_->is_header_done() && parser_->get().method() == http::verb::head;
  const bool head_only = head || file_ || parts_;
  if (file_ && (head || file_->span.length == 0)) file_.reset();
  if (head) parts_.reset();
  const std::array<asio::const_buffer, 2> all = {asio::buffer(head_),
                                                 head_only ? asio::const_buffer() : asio::buffer(body_)};
  asio::async_write(connection_, all, std::move(written));
}

void HttpSession::OnWritten(const error_code& error, After after) {
  if (error) return;
  if (file_) return SendFile(after);
  if (parts_) return NextPart(after);
  OnAnswered(after);
}

// Whoever closes the connection meanwhile is no longer waited for.
void HttpSession::NextPart(After after) {
  connection_.tcp().expires_never();
  handler_timer_.expires_after(limits_.handler_timeout);
  handler_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && self->handler_timer_.expiry() <= std::chrono::steady_clock::now()) self->Close();
  });
  connection_.tcp().socket().async_wait(tcp::socket::wait_read, [weak = weak_from_this()](const error_code&) {
    const auto self = weak.lock();
    if (self && self->parts_ && self->HasGone()) self->StopParts();
  });
  parts_->Next([weak = weak_from_this(), host = host_, after](absl::StatusOr<FileSpan> part) mutable {
    const std::shared_ptr<HttpSessionHost> alive = host.lock();
    if (!alive) return;
    alive->Post([weak = std::move(weak), part = std::move(part), after]() mutable {
      if (const auto self = weak.lock()) self->OnPart(std::move(part), after);
    });
  });
}

void HttpSession::OnPart(absl::StatusOr<FileSpan> part, After after) {
  if (!parts_) return;
  // The length was promised: only the end of the connection tells the truth.
  if (!part.ok() || part->length == 0 || part->length > parts_left_) return StopParts();
  handler_timer_.cancel();
  parts_left_ -= part->length;
  TakeFile(*std::move(part));
  if (parts_left_ == 0) parts_.reset();
  SendFile(after);
}

void HttpSession::StopParts() {
  handler_timer_.cancel();
  Close();
}

void HttpSession::TakeFile(FileSpan span) {
  const SendUrgency urgency = span.urgency;
  file_.emplace(
      Outgoing{std::move(span), std::make_unique<SendOrder::Turn>(server_.send_order(), urgency, Now())});
  const int unsent_max = urgency == SendUrgency::kFill ? kFillUnsentBytes : 0;
  if (unsent_max == std::exchange(unsent_bytes_max_, unsent_max)) return;
  (void)::setsockopt(connection_.tcp().socket().native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_max,
                     sizeof(unsent_max));
}

// As much as the socket takes, in slices, so that one connection on a fast network leaves room for others.
void HttpSession::SendFile(After after) {
  FileSpan& span = file_->span;
  SendOrder& order = server_.send_order();
  const uint64_t slice = order.MaySend(*file_->turn, span.length, Now());
  if (slice == 0) {
    after_file_ = after;
    return server_.Hold(shared_from_this(), order.LookAgainAt(*file_->turn, span.length, Now()));
  }
  if (connection_.is_tls()) return SendFileByTls(slice, after);
  error_code error;
  connection_.tcp().socket().native_non_blocking(true, error);
  const int socket = connection_.tcp().socket().native_handle();
  auto offset = static_cast<off_t>(span.offset);
  const ssize_t sent =
      span.memory != nullptr
          ? ::send(socket, span.memory + span.offset, static_cast<size_t>(slice), MSG_DONTWAIT | MSG_NOSIGNAL)
          : ::sendfile(socket, span.fd, &offset, static_cast<size_t>(slice));
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return SendFileWhenWritable(after);
  // The file ended early, or the client has gone: the length was promised, so only the end of the connection
  // tells the truth.
  if (sent <= 0) return file_.reset();
  NoteSent(static_cast<uint64_t>(sent));
  if (span.length > 0) return SendFileWhenWritable(after);
  OnFileSent(after);
}

void HttpSession::SendFileByTls(uint64_t slice, After after) {
  const FileSpan& span = file_->span;
  slice_.resize(static_cast<size_t>(std::min(slice, kTlsSliceBytes)));
  const ssize_t read = ReadSpan(span, slice_);
  // As above: only the end of the connection tells the truth.
  if (read <= 0) return file_.reset();
  slice_.resize(static_cast<size_t>(read));
  connection_.tcp().expires_after(limits_.idle_timeout);
  asio::async_write(connection_, asio::buffer(slice_),
                    [self = shared_from_this(), after, began = Now()](const error_code& error, size_t) {
                      if (self->NoteWaited(began)) self->OnSliceSent(error, after);
                    });
}

void HttpSession::OnSliceSent(const error_code& error, After after) {
  if (error || !file_) return file_.reset();
  NoteSent(slice_.size());
  if (file_->span.length > 0) return SendFile(after);
  slice_ = {};  // a connection that is only kept needs none
  OnFileSent(after);
}

// Whether the client is sent more. One that takes a few bytes now and then would hold its place, and what it
// is sent, for days; time in which others were sent is not its fault.
bool HttpSession::NoteWaited(Instant began) {
  if (!file_) return false;
  file_->waited += Now() - began;
  if (file_->waited <= 2 * limits_.idle_timeout) return true;
  file_.reset();
  return false;
}

void HttpSession::NoteSent(uint64_t bytes) {
  server_.send_order().Sent(*file_->turn, bytes, Now());
  file_->taken += bytes;
  if (file_->taken >= kPatientBytes) {
    file_->taken = 0;
    file_->waited = {};
  }
  FileSpan& span = file_->span;
  span.offset += bytes;
  span.length -= bytes;
  if (span.on_sent) span.on_sent(bytes);
}

void HttpSession::OnFileSent(After after) {
  if (file_->span.on_taken) {
    drained_ = std::move(file_);
    drain_began_ = Now();
    drain_from_.reset();
    AwaitTaken();
  }
  file_.reset();
  if (parts_) return NextPart(after);
  OnAnswered(after);
}

// What sendfile(2) has returned from may be in the socket's buffer, megabytes of it; nobody tells when it has
// left it.
void HttpSession::AwaitTaken() {
  if (!drained_) return;
  const std::optional<int> queued = Queued();
  if (queued && *queued == 0) return EndDrain();
  const Duration spent = Now() - drain_began_;
  if (!queued || spent > limits_.idle_timeout) return drained_.reset();
  if (!drain_from_) drain_from_ = *queued;
  const int taken = *drain_from_ - *queued;
  const Duration half = taken > 0 ? spent * *queued / taken / 2 : spent;
  drain_timer_.expires_after(std::clamp(half, kDrainPollMin, kDrainPollMax));
  drain_timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->AwaitTaken();
  });
}

// Nothing if it never will be. Source: tcp(7), SIOCOUTQ: what was not acknowledged yet; of a connection that
// was reset it stays as it was.
std::optional<int> HttpSession::Queued() {
  int queued = 0;
  if (::ioctl(connection_.tcp().socket().native_handle(), SIOCOUTQ, &queued) != 0) return std::nullopt;
  if (queued == 0) return 0;
  pollfd connection{connection_.tcp().socket().native_handle(), 0, 0};
  if (::poll(&connection, 1, 0) > 0) return std::nullopt;
  return queued;
}

void HttpSession::EndDrain() {
  if (!drained_) return;
  drain_timer_.cancel();
  if (drained_->span.on_taken) std::move(drained_->span.on_taken)();
  drained_.reset();
}

// The stream's own timer covers its own operations only, so a wait has one beside it.
void HttpSession::SendFileWhenWritable(After after) {
  handler_timer_.expires_after(limits_.idle_timeout);
  handler_timer_.async_wait([weak = weak_from_this()](const error_code& error) {
    const auto self = weak.lock();
    // It may have been set anew since this was queued.
    if (error || !self || self->handler_timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->connection_.tcp().socket().cancel();
  });
  connection_.tcp().socket().async_wait(
      tcp::socket::wait_write, [self = shared_from_this(), after, began = Now()](const error_code& error) {
        self->handler_timer_.cancel();
        if (error) return self->file_.reset();
        if (self->NoteWaited(began)) self->SendFile(after);
      });
}

void HttpSession::OnAnswered(After after) {
  if (after == After::kKeepAlive) return ReadRequest();
  if (!connection_.is_tls()) return End();
  connection_.tcp().expires_after(kEndTimeout);
  connection_.SayEnd([self = shared_from_this()](const error_code&) { self->End(); });
}

void HttpSession::End() {
  error_code ignored;
  connection_.tcp().socket().shutdown(tcp::socket::shutdown_send, ignored);
}

}  // namespace sluice::api
