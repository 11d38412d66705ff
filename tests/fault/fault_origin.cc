#include "tests/fault/fault_origin.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "p2p/recipe/sha256.h"

namespace sluice::p2p {
namespace {

constexpr size_t kHeadBytesMax = 64 << 10;
constexpr int kDripPauseMs = 100;

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

void Require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("fault origin: ") + what);
}

struct FreeOpenSsl {
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(SSL* p) const { SSL_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
};
template <typename T>
using OpenSsl = std::unique_ptr<T, FreeOpenSsl>;

// A key and a self-signed certificate for loopback; the certificate is written to a temporary file too.
class SelfSigned {
 public:
  SelfSigned() : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
    X509* const x = certificate_.get();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key_.get());
    X509_NAME* const name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("fault origin"), -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509_EXTENSION* const names =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost");
    X509_add_ext(x, names, -1);
    X509_EXTENSION_free(names);
    Require(X509_sign(x, key_.get(), EVP_sha256()) > 0, "signing the certificate");

    char directory[] = "/tmp/sluice-fault-XXXXXX";
    Require(mkdtemp(directory) != nullptr, "mkdtemp");
    directory_ = directory;
    file_ = directory_ + "/ca.pem";
    FILE* const out = std::fopen(file_.c_str(), "w");
    Require(out != nullptr && PEM_write_X509(out, x) == 1, "writing the certificate");
    std::fclose(out);
  }
  ~SelfSigned() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  const std::string& file() const { return file_; }
  OpenSsl<SSL_CTX> NewContext() const {
    OpenSsl<SSL_CTX> context(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_use_certificate(context.get(), certificate_.get());
    SSL_CTX_use_PrivateKey(context.get(), key_.get());
    return context;
  }

 private:
  OpenSsl<EVP_PKEY> key_;
  OpenSsl<X509> certificate_;
  std::string directory_;
  std::string file_;
};

class Connection final : public FaultConnection {
 public:
  Connection(int fd, SSL_CTX* tls) : fd_(fd) {
    if (tls == nullptr) return;
    ssl_.reset(SSL_new(tls));
    SSL_set_fd(ssl_.get(), fd_);
    broken_ = SSL_accept(ssl_.get()) != 1;
  }

  void SendRaw(std::string_view bytes) override {
    while (!bytes.empty() && !broken_) {
      const int n = ssl_ ? SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()))
                         : static_cast<int>(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL));
      if (n <= 0) {
        broken_ = true;
        return;
      }
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void Stall() override {
    while (Pause()) {
    }
    broken_ = true;
  }
  void CloseAfter() override { closing_ = true; }

  bool usable() const { return !broken_ && !closing_; }
  std::optional<FaultRequest> ReadRequest();

 private:
  bool Pause() override {
    pollfd waiting{fd_, POLLRDHUP, 0};
    return ::poll(&waiting, 1, kDripPauseMs) == 0 && !broken_;
  }

  bool Fill() {
    char buffer[16 << 10];
    const int n = broken_ ? 0
                  : ssl_  ? SSL_read(ssl_.get(), buffer, sizeof buffer)
                          : static_cast<int>(::recv(fd_, buffer, sizeof buffer, 0));
    if (n <= 0) {
      broken_ = true;
      return false;
    }
    input_.append(buffer, static_cast<size_t>(n));
    return true;
  }

  const int fd_;
  OpenSsl<SSL> ssl_;
  std::string input_;
  bool broken_ = false;
  bool closing_ = false;
};

FaultRequest ParseHead(std::string_view head) {
  FaultRequest request;
  std::string_view line = head.substr(0, head.find("\r\n"));
  const size_t first = line.find(' ');
  const size_t second = line.rfind(' ');
  request.method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, second - first - 1);
  while (head.find("\r\n") != std::string_view::npos) {
    head.remove_prefix(head.find("\r\n") + 2);
    line = head.substr(0, head.find("\r\n"));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string_view value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
    request.headers[Lower(std::string(line.substr(0, colon)))] = value;
  }
  request.host = request.Header("host");
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && scheme < target.find('?')) {
    target.remove_prefix(scheme + 3);
    request.host = target.substr(0, target.find('/'));
    target.remove_prefix(std::min(target.find('/'), target.size()));
  }
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  return request;
}

std::optional<FaultRequest> Connection::ReadRequest() {
  size_t end = 0;
  while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
    if (input_.size() > kHeadBytesMax || !Fill()) return std::nullopt;
  }
  FaultRequest request = ParseHead(std::string_view(input_).substr(0, end));
  input_.erase(0, end + 4);
  const std::string length_text = request.Header("content-length");
  const size_t length = length_text.empty() ? 0 : std::stoul(length_text);
  while (input_.size() < length) {
    if (!Fill()) return std::nullopt;
  }
  request.body = input_.substr(0, length);
  input_.erase(0, length);
  return request;
}

}  // namespace

std::string FaultRequest::Header(const std::string& name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? std::string() : it->second;
}

void FaultConnection::SendHead(int status, const Headers& headers) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + " Scripted\r\n";
  for (const auto& [name, value] : headers) head += name + ": " + value + "\r\n";
  SendRaw(head + "\r\n");
}

void FaultConnection::Send(int status, const Headers& headers, std::string_view body) {
  Headers all = headers;
  const bool has_length = std::any_of(headers.begin(), headers.end(), [](const auto& header) {
    return Lower(header.first) == "content-length";
  });
  if (!has_length) all.emplace_back("Content-Length", std::to_string(body.size()));
  SendHead(status, all);
  SendRaw(body);
}

void FaultConnection::Drip(std::string_view body) {
  for (const char c : body) {
    SendRaw({&c, 1});
    if (!Pause()) return;
  }
}

class FaultOrigin::Server {
 public:
  explicit Server(Transport transport) : transport_(transport) {
    if (transport == Transport::kTls) {
      ::signal(SIGPIPE, SIG_IGN);  // SSL_write has no MSG_NOSIGNAL
      certificate_.emplace();
      tls_ = certificate_->NewContext();
    }
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    Require(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0, "bind");
    Require(::listen(listener_, 128) == 0, "listen");
    Require(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "getsockname");
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }

  ~Server() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : connections_) thread.join();
    ::close(listener_);
  }

  void Accept() {
    while (true) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        ::close(fd);
        return;
      }
      open_.insert(fd);
      connections_.emplace_back([this, fd] { Serve(fd); });
    }
  }

  void Serve(int fd) {
    {
      Connection connection(fd, tls_.get());
      while (connection.usable()) {
        const std::optional<FaultRequest> request = connection.ReadRequest();
        if (!request) break;
        Choose (*request)(*request, connection);
      }
    }
    const std::lock_guard lock(mutex_);
    open_.erase(fd);
    ::close(fd);
  }

  FaultBehaviour Choose(const FaultRequest& request) {
    const std::lock_guard lock(mutex_);
    log_.push_back(request);
    if (std::deque<FaultBehaviour>& script = scripts_[request.path]; !script.empty()) {
      FaultBehaviour behaviour = std::move(script.front());
      script.pop_front();
      return behaviour;
    }
    if (const auto it = always_.find(request.path); it != always_.end()) return it->second;
    if (!authorization_.empty() && request.Header("authorization") != authorization_) {
      if (challenge_.empty()) return fault::Status(401);
      return fault::Status(401, {{"WWW-Authenticate", challenge_}});
    }
    return [this](const FaultRequest& r, FaultConnection& c) { ServeContent(r, c); };
  }

  void ServeContent(const FaultRequest& request, FaultConnection& connection);

  struct Content {
    std::string media_type;
    std::string bytes;
    Digest digest;
  };

  const Transport transport_;
  std::optional<SelfSigned> certificate_;
  OpenSsl<SSL_CTX> tls_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::thread acceptor_;

  mutable std::mutex mutex_;  // guards the rest
  bool stopping_ = false;
  std::set<int> open_;
  std::vector<std::thread> connections_;
  std::map<std::string, std::shared_ptr<const Content>> content_;  // by path
  std::map<std::string, std::deque<FaultBehaviour>> scripts_;
  std::map<std::string, FaultBehaviour> always_;
  std::string authorization_;
  std::string challenge_;
  std::vector<FaultRequest> log_;
};

void FaultOrigin::Server::ServeContent(const FaultRequest& request, FaultConnection& connection) {
  std::shared_ptr<const Content> content;
  {
    const std::lock_guard lock(mutex_);
    const auto it = content_.find(request.path);
    if (it != content_.end()) content = it->second;
  }
  if (!content) {
    // An answer to HEAD has no body.
    const bool head = request.method == "HEAD";
    return connection.Send(404, {}, head ? "" : R"({"errors":[{"code":"BLOB_UNKNOWN"}]})");
  }
  const size_t size = content->bytes.size();
  FaultConnection::Headers headers = {{"Content-Type", content->media_type},
                                      {"Docker-Content-Digest", content->digest.ToString()}};
  if (request.method == "HEAD") {
    headers.emplace_back("Content-Length", std::to_string(size));
    return connection.SendHead(200, headers);
  }
  size_t first = 0;
  size_t last = 0;
  if (std::sscanf(request.Header("range").c_str(), "bytes=%zu-%zu", &first, &last) != 2) {
    return connection.Send(200, headers, content->bytes);
  }
  if (first >= size) return connection.Send(416, {{"Content-Range", "bytes */" + std::to_string(size)}}, "");
  last = std::min(last, size - 1);
  headers.emplace_back("Content-Range", "bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" +
                                            std::to_string(size));
  connection.Send(206, headers, std::string_view(content->bytes).substr(first, last - first + 1));
}

FaultOrigin::FaultOrigin(Transport transport) : server_(std::make_unique<Server>(transport)) {}
FaultOrigin::~FaultOrigin() = default;

uint16_t FaultOrigin::port() const {
  return server_->port_;
}
std::string FaultOrigin::registry() const {
  return "127.0.0.1:" + std::to_string(port());
}
std::string FaultOrigin::Url(std::string_view path) const {
  const char* const scheme = server_->transport_ == Transport::kTls ? "https://" : "http://";
  return scheme + registry() + std::string(path);
}
const std::string& FaultOrigin::ca_file() const {
  return server_->certificate_.value().file();
}

std::string FaultOrigin::BlobPath(const std::string& repository, const Digest& digest) {
  return "/v2/" + repository + "/blobs/" + digest.ToString();
}
std::string FaultOrigin::ManifestPath(const std::string& repository, std::string_view tag_or_digest) {
  return "/v2/" + repository + "/manifests/" + std::string(tag_or_digest);
}

Digest FaultOrigin::AddBlob(const std::string& repository, std::string bytes) {
  const Digest digest = Sha256::Of(bytes);
  const std::lock_guard lock(server_->mutex_);
  server_->content_[BlobPath(repository, digest)] = std::make_shared<Server::Content>(
      Server::Content{"application/octet-stream", std::move(bytes), digest});
  return digest;
}

Digest FaultOrigin::AddManifest(const std::string& repository, const std::string& tag,
                                const std::string& media_type, std::string body) {
  const Digest digest = Sha256::Of(body);
  const auto content =
      std::make_shared<Server::Content>(Server::Content{media_type, std::move(body), digest});
  const std::lock_guard lock(server_->mutex_);
  server_->content_[ManifestPath(repository, tag)] = content;
  server_->content_[ManifestPath(repository, digest.ToString())] = content;
  return digest;
}

void FaultOrigin::Script(const std::string& path, std::vector<FaultBehaviour> behaviours) {
  const std::lock_guard lock(server_->mutex_);
  std::deque<FaultBehaviour>& script = server_->scripts_[path];
  std::move(behaviours.begin(), behaviours.end(), std::back_inserter(script));
}

void FaultOrigin::Always(const std::string& path, FaultBehaviour behaviour) {
  const std::lock_guard lock(server_->mutex_);
  server_->always_[path] = std::move(behaviour);
}

void FaultOrigin::RequireAuthorization(std::string authorization, std::string challenge) {
  const std::lock_guard lock(server_->mutex_);
  server_->authorization_ = std::move(authorization);
  server_->challenge_ = std::move(challenge);
}

void FaultOrigin::ServeByTheRules(const FaultRequest& request, FaultConnection& connection) {
  server_->ServeContent(request, connection);
}

std::vector<FaultRequest> FaultOrigin::requests(const std::string& path) const {
  const std::lock_guard lock(server_->mutex_);
  std::vector<FaultRequest> found;
  std::copy_if(server_->log_.begin(), server_->log_.end(), std::back_inserter(found),
               [&](const FaultRequest& request) { return request.path == path; });
  return found;
}

size_t FaultOrigin::connection_count() const {
  const std::lock_guard lock(server_->mutex_);
  return server_->connections_.size();
}

namespace fault {

FaultBehaviour Status(int status, FaultConnection::Headers headers, std::string body) {
  return [=](const FaultRequest&, FaultConnection& connection) { connection.Send(status, headers, body); };
}

FaultBehaviour Redirect(std::string location) {
  return Status(307, {{"Location", std::move(location)}});
}

FaultBehaviour Hangup() {
  return [](const FaultRequest&, FaultConnection& connection) { connection.CloseAfter(); };
}

FaultBehaviour TokenForCredentials(std::string answer) {
  return [=](const FaultRequest& request, FaultConnection& connection) {
    const bool shown = !request.Header("authorization").empty() || request.method == "POST";
    connection.Send(shown ? 200 : 401, {}, shown ? answer : "");
  };
}

}  // namespace fault
}  // namespace sluice::p2p
