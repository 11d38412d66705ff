#include "api/http/http_connection.h"

namespace sluice::api {

HttpConnection::HttpConnection(Socket socket, std::shared_ptr<const tls::Identity> identity)
    : tcp_(std::move(socket)), identity_(std::move(identity)) {
  if (!identity_) return;
  // asio's context lets go of one reference, and the stream has one of its own.
  SSL_CTX* const shared = identity_->server_context();
  SSL_CTX_up_ref(shared);
  boost::asio::ssl::context context(shared);
  tls_ = std::make_unique<TlsStream>(tcp_, context);
}

}  // namespace sluice::api
