#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "api/http/http_connection.h"
#include "api/http/http_server.h"
#include "api/http/send_order.h"
#include "node/executor.h"

namespace sluice::api {

class HttpSession;

// What a session needs of its server. All but Post are of the server's thread.
class HttpSessionHost {
 public:
  virtual ~HttpSessionHost() = default;

  // Null if there is none.
  virtual HttpHandler* HandlerOf(std::string_view path) = 0;
  virtual HttpHandler* PostHandlerOf(std::string_view target) = 0;
  virtual void OnHandshake(HttpConnection& connection, const boost::system::error_code& error) = 0;
  virtual void OnEnd(HttpSession& session) = 0;
  // Whether a connection goes on after its answer, if its client likes.
  virtual bool KeepsConnections() const = 0;
  virtual SendOrder& send_order() = 0;
  // Calls SendOn at `until`, or earlier if the order has room.
  virtual void Hold(std::shared_ptr<HttpSession> session, Instant until) = 0;
  // Runs `task` on the server's thread, or drops it if that has ended. Thread-safe.
  virtual void Post(Task task) = 0;
};

// One connection and its requests, one after another. Lives as long as an operation of its own is pending in
// the io_context. Private to this folder, since it names asio.
//
// Of the server's thread.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  // The host outlives all sessions; the limits too.
  HttpSession(std::weak_ptr<HttpSessionHost> host, HttpSessionHost& alive, boost::asio::io_context& io,
              const HttpLimits& limits, HttpConnection::Socket socket,
              std::shared_ptr<const tls::Identity> identity);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  void Start();
  // Nothing of it runs any more: a client that waits must not wait for the server to be destroyed, nor a file
  // that is being sent.
  void Close();
  // Ends it while the server goes on.
  void Abort();
  HttpConnection& connection() { return connection_; }
  // Since when it has no request; nothing if it has one, or what it sent is not taken in yet.
  std::optional<Instant> idle_since() const { return drained_ ? std::nullopt : idle_since_; }
  // Whether it has had one. The first may be on its way.
  bool was_asked() const { return request_number_ > 0; }
  // No-op if there is nothing left of a file.
  void SendOn();

 private:
  class Exchange;
  // Whether a session goes on after an answer. It can't after a request that was not read to its end.
  enum class After { kKeepAlive, kClose };
  struct InterimAnswer {
    unsigned status = 0;
    HttpHeaderList headers;
  };
  // A file, with its turn to be sent.
  struct Outgoing {
    FileSpan span;
    std::unique_ptr<SendOrder::Turn> turn;
    // How long the client was waited for, and what it took, since it had taken kPatientBytes last.
    Duration waited{};
    uint64_t taken = 0;
  };
  static std::string TextOf(const InterimAnswer& interim);

  void ReadRequest();
  void OnHeader(const boost::system::error_code& error);
  // Nobody is answered who has gone, or was silent for too long.
  void OnBadRequest(const boost::system::error_code& error);
  void ReadBody();
  void Dispatch();
  HttpRequest MakeRequest() const;

  HttpResponder MakeResponder();
  bool Awaits(uint64_t request_number) const { return awaiting_answer_ && request_number == request_number_; }
  void OnAnswer(uint64_t request_number, HttpResponse response);
  void OnTooLong(uint64_t request_number);
  void SendInterim(uint64_t request_number, InterimAnswer interim);
  void OnInterimSent(const boost::system::error_code& error);
  void NotifyWhenGone(uint64_t request_number, Task gone);
  void AwaitGone(uint64_t request_number);
  void LookForGoneLater(uint64_t request_number);
  bool HasGone();
  void Gone();
  void Write(HttpResponse response, After after);
  void OnWritten(const boost::system::error_code& error, After after);
  void NextPart(After after);
  void OnPart(absl::StatusOr<FileSpan> part, After after);
  void StopParts();
  void TakeFile(FileSpan span);
  void SendFile(After after);
  void SendFileWhenWritable(After after);
  void SendFileByTls(uint64_t slice, After after);
  void OnSliceSent(const boost::system::error_code& error, After after);
  bool NoteWaited(Instant began);
  void NoteSent(uint64_t bytes);
  void OnFileSent(After after);
  void AwaitTaken();
  std::optional<int> Queued();
  void EndDrain();
  void OnAnswered(After after);
  void End();

  const std::weak_ptr<HttpSessionHost> host_;
  HttpSessionHost& server_;
  const HttpLimits& limits_;
  HttpConnection connection_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  // What is being sent.
  std::string head_;
  std::string body_;
  boost::asio::steady_timer handler_timer_;
  std::optional<Outgoing> file_;  // what is left to send of it
  After after_file_ = After::kClose;
  int unsent_bytes_max_ = 0;  // as the socket was told; 0: it decides
  std::optional<Instant> idle_since_;
  std::unique_ptr<HttpParts> parts_;
  uint64_t parts_left_ = 0;
  std::string slice_;                // of the file, being sent by TLS
  std::optional<Outgoing> drained_;  // sent, and not taken in yet
  boost::asio::steady_timer drain_timer_;
  Instant drain_began_{};
  std::optional<int> drain_from_;  // bytes that were not taken in then
  boost::asio::steady_timer gone_timer_;
  // Counts requests; a responder whose number is not the awaited one comes too late.
  uint64_t request_number_ = 0;
  bool awaiting_answer_ = false;
  // While an answer is awaited.
  Task gone_;                                  // null: nobody is to be told, or has been told already
  std::string interim_;                        // being sent; empty: none is
  std::optional<InterimAnswer> next_interim_;  // to be sent then
  std::optional<HttpResponse> answer_;         // waits for it
};

}  // namespace sluice::api
