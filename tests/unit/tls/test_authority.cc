#include "tests/unit/tls/test_authority.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <utility>

namespace sluice::tls {
namespace {

struct Free {
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(SSL* p) const { SSL_free(p); }
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(X509_CRL* p) const { X509_CRL_free(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<size_t>(size)};
}

std::string PemOf(X509* certificate) {
  const Owned<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), certificate);
  return TextOf(out.get());
}

Owned<BIO> Reading(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Owned<X509> ReadCertificate(const std::string& text) {
  return Owned<X509>(PEM_read_bio_X509(Reading(text).get(), nullptr, nullptr, nullptr));
}

void AddExtension(X509* certificate, int nid, const std::string& value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

Owned<X509> NewCertificate(EVP_PKEY* key, const std::string& name, int64_t begins_in, int64_t ends_in) {
  static std::atomic<long> serial{1000};
  Owned<X509> certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), begins_in);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), ends_in);
  X509_set_pubkey(certificate.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

struct TestAuthority::Parts {
  Owned<EVP_PKEY> key;
  Owned<X509> certificate;
};

TestAuthority::TestAuthority(const std::string& name) : parts_(std::make_unique<Parts>()) {
  parts_->key.reset(EVP_EC_gen("P-256"));
  parts_->certificate = NewCertificate(parts_->key.get(), name, -7200, 7200);
  X509* const own = parts_->certificate.get();
  X509_set_issuer_name(own, X509_get_subject_name(own));
  AddExtension(own, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(own, NID_key_usage, "critical,keyCertSign,cRLSign");
  X509_sign(own, parts_->key.get(), EVP_sha256());
  pem_ = PemOf(own);
}

TestAuthority::~TestAuthority() = default;

Issued TestAuthority::Issue(const Wish& wish) const {
  const Owned<EVP_PKEY> key(EVP_EC_gen("P-256"));
  const Owned<X509> certificate = NewCertificate(key.get(), "a node", wish.begins_in, wish.ends_in);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(parts_->certificate.get()));
  std::string names;
  for (const std::string& name : wish.names) names += (names.empty() ? "DNS:" : ",DNS:") + name;
  if (!names.empty()) AddExtension(certificate.get(), NID_subject_alt_name, names);
  if (!wish.uses.empty()) AddExtension(certificate.get(), NID_ext_key_usage, wish.uses);
  X509_sign(certificate.get(), parts_->key.get(), EVP_sha256());
  const Owned<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(out.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  return {PemOf(certificate.get()), TextOf(out.get())};
}

std::string TestAuthority::Revoke(const std::vector<std::string>& certificates, int64_t next_in) const {
  const Owned<X509_CRL> list(X509_CRL_new());
  X509_CRL_set_version(list.get(), 1);
  X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(parts_->certificate.get()));
  ASN1_TIME* const time = ASN1_TIME_new();
  X509_gmtime_adj(time, -7200);
  X509_CRL_set1_lastUpdate(list.get(), time);
  for (const std::string& text : certificates) {
    X509_REVOKED* const revoked = X509_REVOKED_new();
    X509_REVOKED_set_serialNumber(revoked, X509_get_serialNumber(ReadCertificate(text).get()));
    X509_REVOKED_set_revocationDate(revoked, time);
    X509_CRL_add0_revoked(list.get(), revoked);
  }
  X509_gmtime_adj(time, next_in);
  X509_CRL_set1_nextUpdate(list.get(), time);
  ASN1_TIME_free(time);
  X509_CRL_sort(list.get());
  X509_CRL_sign(list.get(), parts_->key.get(), EVP_sha256());
  const Owned<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_CRL(out.get(), list.get());
  return TextOf(out.get());
}

std::shared_ptr<const Identity> TestAuthority::MakeIdentity(const Wish& wish, const std::string& crl,
                                                            uint64_t number,
                                                            const std::string& trusted) const {
  const Issued issued = Issue(wish);
  absl::StatusOr<std::shared_ptr<const Identity>> made =
      Identity::Create({pem_ + trusted, issued.certificate, issued.key, crl}, wish.names.front(), number);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *made : nullptr;
}

struct TlsClient::Parts {
  int fd = -1;
  Owned<SSL_CTX> context;
  Owned<SSL> ssl;
  bool ended = false;
};

TlsClient::TlsClient(uint16_t port, const Issued* shown) : parts_(std::make_unique<Parts>()) {
  ::signal(SIGPIPE, SIG_IGN);  // SSL_write has no MSG_NOSIGNAL
  parts_->context.reset(SSL_CTX_new(TLS_client_method()));
  if (shown != nullptr) {
    const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(Reading(shown->key).get(), nullptr, nullptr, nullptr));
    SSL_CTX_use_certificate(parts_->context.get(), ReadCertificate(shown->certificate).get());
    SSL_CTX_use_PrivateKey(parts_->context.get(), key.get());
  }
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  parts_->fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{60, 0};
  ::setsockopt(parts_->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(parts_->fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    parts_->ended = true;
    return;
  }
  parts_->ssl.reset(SSL_new(parts_->context.get()));
  SSL_set_fd(parts_->ssl.get(), parts_->fd);
  parts_->ended = SSL_connect(parts_->ssl.get()) != 1;
}

TlsClient::~TlsClient() {
  ::close(parts_->fd);
}

TlsClient& TlsClient::Send(const std::string& bytes) {
  if (!parts_->ended) SSL_write(parts_->ssl.get(), bytes.data(), static_cast<int>(bytes.size()));
  return *this;
}

std::string TlsClient::ReadThrough(const std::string& end) {
  for (;;) {
    const size_t found = end.empty() ? std::string::npos : ahead_.find(end);
    if (found != std::string::npos) {
      std::string taken = ahead_.substr(0, found + end.size());
      ahead_.erase(0, taken.size());
      return taken;
    }
    char buffer[16 << 10];
    const int n = parts_->ended ? 0 : SSL_read(parts_->ssl.get(), buffer, sizeof buffer);
    if (n <= 0) {
      parts_->ended = true;
      return std::exchange(ahead_, {});
    }
    ahead_.append(buffer, static_cast<size_t>(n));
  }
}

void TlsClient::SayEnd() {
  SSL_shutdown(parts_->ssl.get());
}

}  // namespace sluice::tls
