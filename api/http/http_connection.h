#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "node/tls/identity.h"

namespace sluice::api {

// A client's connection to the server, plain or by TLS: what asio calls an AsyncStream. Private to this
// folder, since it names asio.
//
// Of the server's thread.
class HttpConnection {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using executor_type = boost::beast::tcp_stream::executor_type;

  // With an identity it is TLS: Handshake comes before all else.
  HttpConnection(Socket socket, std::shared_ptr<const tls::Identity> identity);
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  bool is_tls() const { return tls_ != nullptr; }
  // Below TLS; its timer bounds what goes on above it.
  boost::beast::tcp_stream& tcp() { return tcp_; }
  executor_type get_executor() { return tcp_.get_executor(); }

  // The client may be anybody. REQUIRES: is_tls(), before the handshake
  void AskForNoCertificate() {
    SSL_set_verify(tls_->native_handle(), SSL_VERIFY_NONE, nullptr);
    asks_for_certificate_ = false;
  }
  // Whether the client shows a certificate in its handshake.
  bool is_proven() const { return is_tls() && asks_for_certificate_; }
  // Both sides show their certificates, unless the client may be anybody. `done` is handed a
  // boost::system::error_code. REQUIRES: is_tls()
  template <typename Done>
  void Handshake(Done done) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(done));
  }
  // Says that nothing more is sent; without it a client of TLS could not tell an end from a cut.
  template <typename Done>
  void SayEnd(Done done) {
    tls_->async_shutdown(std::move(done));
  }
  // What was wrong with the client's certificate; empty if it was something else. REQUIRES: is_tls()
  std::string Refusal() const { return tls::RefusalOf(tls_->native_handle()); }

  // The client's. REQUIRES: is_tls(), the handshake has ended well
  void NotePeer() { peer_ = tls::PeerOf(tls_->native_handle(), identity_->peer_name()); }
  const tls::Peer& peer() const { return peer_; }
  // Whether it would be let in by that identity. REQUIRES: as above
  bool IsAcceptedBy(const tls::Identity& identity) const {
    return identity.Accepts(tls_->native_handle(), tls::PeerSide::kClient);
  }

  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_read_some(buffers, std::forward<Handler>(handler));
    tcp_.async_read_some(buffers, std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_write_some(buffers, std::forward<Handler>(handler));
    tcp_.async_write_some(buffers, std::forward<Handler>(handler));
  }

 private:
  using TlsStream = boost::asio::ssl::stream<boost::beast::tcp_stream&>;

  boost::beast::tcp_stream tcp_;
  const std::shared_ptr<const tls::Identity> identity_;  // null: plain
  std::unique_ptr<TlsStream> tls_;                       // the same
  bool asks_for_certificate_ = true;
  tls::Peer peer_;
};

}  // namespace sluice::api
