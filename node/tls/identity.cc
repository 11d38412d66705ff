#include "node/tls/identity.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice::tls {
namespace {

constexpr size_t kCertificatesMax = 1000;  // of one file
constexpr size_t kNameBytesMax = 253;

struct Free {
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(X509_CRL* p) const { X509_CRL_free(p); }
  void operator()(X509_STORE* p) const { X509_STORE_free(p); }
  void operator()(X509_STORE_CTX* p) const { X509_STORE_CTX_free(p); }
  void operator()(GENERAL_NAMES* p) const { GENERAL_NAMES_free(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// What OpenSSL noted last on this thread. Its notes must not be taken for those of who comes next.
std::string LastNote() {
  char text[256] = "";
  const unsigned long code = ERR_peek_last_error();
  if (code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return text;
}

Owned<BIO> Reading(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// All of that kind in a PEM text; what stands between them is skipped.
std::vector<Owned<X509>> ReadCertificates(const std::string& text) {
  std::vector<Owned<X509>> found;
  const Owned<BIO> in = Reading(text);
  while (found.size() < kCertificatesMax) {
    Owned<X509> one(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
    if (!one) break;
    found.push_back(std::move(one));
  }
  ERR_clear_error();
  return found;
}

std::vector<Owned<X509_CRL>> ReadLists(const std::string& text) {
  std::vector<Owned<X509_CRL>> found;
  const Owned<BIO> in = Reading(text);
  while (found.size() < kCertificatesMax) {
    Owned<X509_CRL> one(PEM_read_bio_X509_CRL(in.get(), nullptr, nullptr, nullptr));
    if (!one) break;
    found.push_back(std::move(one));
  }
  ERR_clear_error();
  return found;
}

// Nobody is there to be asked for a passphrase.
int NoPassphrase(char*, int, int, void*) {
  return -1;
}

absl::StatusOr<Owned<EVP_PKEY>> ReadKey(const std::string& text) {
  const Owned<BIO> in = Reading(text);
  Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(in.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key) return key;
  if (absl::StrContains(text, "ENCRYPTED")) {
    return absl::InvalidArgumentError(
        "tls.key: it has a passphrase, which nobody could enter; give it without (openssl pkey -in OLD -out "
        "NEW)");
  }
  return absl::InvalidArgumentError("tls.key: it holds no private key in PEM");
}

int64_t SecondsOf(const ASN1_TIME* time) {
  tm parts{};
  return time != nullptr && ASN1_TIME_to_tm(time, &parts) == 1 ? static_cast<int64_t>(timegm(&parts)) : 0;
}

bool HasName(X509* certificate, const std::string& name) {
  return X509_check_host(certificate, name.data(), name.size(),
                         X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, nullptr) == 1;
}

// X of every DNS name X.peer_name. A wildcard names nobody.
ProvenNames NodeNamesOf(X509* certificate, const std::string& peer_name) {
  std::vector<std::string> names;
  const Owned<GENERAL_NAMES> all(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  const std::string ending = absl::StrCat(".", peer_name);
  for (int i = 0; all && i < sk_GENERAL_NAME_num(all.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(all.get(), i);
    if (name->type != GEN_DNS) continue;
    const std::string text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                           static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)));
    if (text.size() <= ending.size() || text.size() > kNameBytesMax || text.find('*') != std::string::npos)
      continue;
    if (absl::EndsWithIgnoreCase(text, ending)) names.push_back(text.substr(0, text.size() - ending.size()));
  }
  return ProvenNames(std::move(names));
}

// A list that is not there or too old is an alarm of this node's own; it must not part it from the others.
// What such a list names has been looked up all the same.
int BearOldLists(int good, X509_STORE_CTX* context) {
  if (good == 1) return 1;
  switch (X509_STORE_CTX_get_error(context)) {
    case X509_V_ERR_UNABLE_TO_GET_CRL:
    case X509_V_ERR_CRL_HAS_EXPIRED:
    case X509_V_ERR_CRL_NOT_YET_VALID:
      X509_STORE_CTX_set_error(context, X509_V_OK);
      return 1;
    default:
      return 0;
  }
}

absl::Status CheckPurpose(X509* certificate) {
  if (X509_check_purpose(certificate, X509_PURPOSE_SSL_CLIENT, 0) == 1 &&
      X509_check_purpose(certificate, X509_PURPOSE_SSL_SERVER, 0) == 1) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "tls.certificate: a node is both server and client, and its certificate is not for both; make it with "
      "the extended key usages serverAuth and clientAuth");
}

}  // namespace

struct Identity::Parts {
  std::vector<Owned<X509>> authorities;
  std::vector<Owned<X509>> chain;  // this node's own first
  Owned<EVP_PKEY> key;
  Owned<X509_STORE> store;  // of authorities and revocation lists
  Owned<SSL_CTX> server_context;

  absl::Status Fill(const IdentityText& text, const std::string& peer_name);
  absl::Status MakeStore(const std::string& crl);
  absl::Status CheckOwn() const;
  // X509_V_OK, or why a certificate is not accepted from who is on that side.
  int Verify(X509* certificate, STACK_OF(X509) * between, PeerSide side) const;
  absl::Status SetUp(SSL_CTX* context, const std::string& peer_name) const;
  absl::Status MakeServerContext(const std::string& peer_name);
};

absl::Status Identity::Parts::Fill(const IdentityText& text, const std::string& peer_name) {
  authorities = ReadCertificates(text.ca);
  if (authorities.empty()) return absl::InvalidArgumentError("tls.ca: it holds no certificate in PEM");
  chain = ReadCertificates(text.certificate);
  if (chain.empty()) return absl::InvalidArgumentError("tls.certificate: it holds no certificate in PEM");
  absl::StatusOr<Owned<EVP_PKEY>> read = ReadKey(text.key);
  if (!read.ok()) return read.status();
  key = *std::move(read);
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        "tls.key: it is not the key of tls.certificate; give both of the same issue, the node's own "
        "certificate first in its file");
  }
  if (!HasName(chain.front().get(), peer_name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls.certificate: it lacks the DNS name (subject alternative name) ", peer_name,
                     ", by which nodes know each other; have it issued with that name, or set tls.peerName"));
  }
  if (absl::Status status = CheckPurpose(chain.front().get()); !status.ok()) return status;
  if (absl::Status status = MakeStore(text.crl); !status.ok()) return status;
  if (absl::Status status = CheckOwn(); !status.ok()) return status;
  return MakeServerContext(peer_name);
}

absl::Status Identity::Parts::MakeStore(const std::string& crl) {
  store.reset(X509_STORE_new());
  for (const Owned<X509>& authority : authorities) X509_STORE_add_cert(store.get(), authority.get());
  // An intermediate may be given as the authority.
  unsigned long flags = X509_V_FLAG_PARTIAL_CHAIN;
  const std::vector<Owned<X509_CRL>> lists = ReadLists(crl);
  for (const Owned<X509_CRL>& list : lists) X509_STORE_add_crl(store.get(), list.get());
  if (!lists.empty()) flags |= X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL;
  ERR_clear_error();
  if (X509_STORE_set_flags(store.get(), flags) == 1) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("tls.ca: ", LastNote()));
}

// That it counts at another time is no mistake of whoever gave it: the clock may be wrong after a cold boot.
absl::Status Identity::Parts::CheckOwn() const {
  const Owned<X509_STORE_CTX> context(X509_STORE_CTX_new());
  STACK_OF(X509)* const between = sk_X509_new_null();
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(between, chain[i].get());
  X509_STORE_CTX_init(context.get(), store.get(), chain.front().get(), between);
  X509_STORE_CTX_set_flags(context.get(), X509_V_FLAG_NO_CHECK_TIME);
  X509_STORE_CTX_set_verify_cb(context.get(), BearOldLists);
  const bool good = X509_verify_cert(context.get()) == 1;
  const int error = X509_STORE_CTX_get_error(context.get());
  sk_X509_free(between);
  ERR_clear_error();
  // Others will say so; this node can still hear them.
  if (good || error == X509_V_ERR_CERT_REVOKED) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tls.certificate: it does not come from an authority in tls.ca: ", X509_verify_cert_error_string(error),
      "; add that authority to tls.ca, or what is between them to tls.certificate"));
}

absl::Status Identity::Parts::SetUp(SSL_CTX* context, const std::string& peer_name) const {
  bool good = SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  good = good && SSL_CTX_use_certificate(context, chain.front().get()) == 1;
  for (size_t i = 1; i < chain.size(); ++i)
    good = good && SSL_CTX_add1_chain_cert(context, chain[i].get()) == 1;
  good = good && SSL_CTX_use_PrivateKey(context, key.get()) == 1;
  SSL_CTX_set1_cert_store(context, store.get());
  // The chain that is shown is the file's, and no authority of the store.
  SSL_CTX_set_mode(context, SSL_MODE_NO_AUTO_CHAIN);
  X509_VERIFY_PARAM* const demands = SSL_CTX_get0_param(context);
  X509_VERIFY_PARAM_set_hostflags(demands,
                                  X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  good = good && X509_VERIFY_PARAM_set1_host(demands, peer_name.data(), peer_name.size()) == 1;
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tls.certificate: it can't be used: ", LastNote()));
}

absl::Status Identity::Parts::MakeServerContext(const std::string& peer_name) {
  server_context.reset(SSL_CTX_new(TLS_server_method()));
  if (!server_context) return absl::ResourceExhaustedError(absl::StrCat("TLS: ", LastNote()));
  if (absl::Status status = SetUp(server_context.get(), peer_name); !status.ok()) return status;
  SSL_CTX_set_num_tickets(server_context.get(), 0);
  SSL_CTX_set_verify(server_context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, BearOldLists);
  return absl::OkStatus();
}

Identity::Identity(std::unique_ptr<Parts> parts, std::string peer_name, uint64_t number, std::string ca_text)
    : parts_(std::move(parts)),
      number_(number),
      peer_name_(std::move(peer_name)),
      ca_text_(std::move(ca_text)),
      server_context_(parts_->server_context.get()),
      own_names_(NodeNamesOf(parts_->chain.front().get(), peer_name_)),
      not_before_(SecondsOf(X509_get0_notBefore(parts_->chain.front().get()))),
      not_after_(SecondsOf(X509_get0_notAfter(parts_->chain.front().get()))) {}

Identity::~Identity() = default;

absl::StatusOr<std::shared_ptr<const Identity>> Identity::Create(const IdentityText& text,
                                                                 std::string peer_name, uint64_t number) {
  auto parts = std::make_unique<Parts>();
  if (absl::Status status = parts->Fill(text, peer_name); !status.ok()) return status;
  return std::shared_ptr<const Identity>(
      new Identity(std::move(parts), std::move(peer_name), number, text.ca));
}

absl::Status Identity::SetUpClient(SSL_CTX* context) const {
  if (absl::Status status = parts_->SetUp(context, peer_name_); !status.ok())
    return absl::InternalError(status.message());
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, BearOldLists);
  return absl::OkStatus();
}

int Identity::Parts::Verify(X509* certificate, STACK_OF(X509) * between, PeerSide side) const {
  const Owned<X509_STORE_CTX> context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), certificate, between);
  X509_STORE_CTX_set_default(context.get(), side == PeerSide::kClient ? "ssl_client" : "ssl_server");
  X509_STORE_CTX_set_verify_cb(context.get(), BearOldLists);
  const bool good = X509_verify_cert(context.get()) == 1;
  const int error = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  if (good) return X509_V_OK;
  return error == X509_V_OK ? X509_V_ERR_UNSPECIFIED : error;
}

bool Identity::Accepts(SSL* connection, PeerSide side) const {
  X509* const certificate = SSL_get0_peer_certificate(connection);
  if (certificate == nullptr) return false;
  const int found = parts_->Verify(certificate, SSL_get_peer_cert_chain(connection), side);
  return found == X509_V_OK && HasName(certificate, peer_name_);
}

std::string Identity::RefusalOfClient(const std::string& chain, const std::string& name) const {
  const std::vector<Owned<X509>> shown = ReadCertificates(chain);
  if (shown.empty()) return "it shows none";
  STACK_OF(X509)* const between = sk_X509_new_null();
  for (size_t i = 1; i < shown.size(); ++i) sk_X509_push(between, shown[i].get());
  const int found = parts_->Verify(shown.front().get(), between, PeerSide::kClient);
  sk_X509_free(between);
  if (found != X509_V_OK) return X509_verify_cert_error_string(found);
  return HasName(shown.front().get(), name) ? "" : absl::StrCat("it lacks the DNS name ", name);
}

Peer PeerOf(SSL* connection, const std::string& peer_name) {
  X509* const certificate = SSL_get0_peer_certificate(connection);
  if (certificate == nullptr) return {};
  return {NodeNamesOf(certificate, peer_name), SecondsOf(X509_get0_notAfter(certificate))};
}

std::string RefusalOf(SSL* connection) {
  const long result = SSL_get_verify_result(connection);
  return result == X509_V_OK ? std::string() : X509_verify_cert_error_string(result);
}

std::string FormatTime(int64_t seconds_since_1970) {
  const time_t time = static_cast<time_t>(seconds_since_1970);
  tm parts{};
  char text[32] = "";
  gmtime_r(&time, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

absl::StatusOr<Revocations> CheckRevocations(const std::string& crl, const std::string& ca) {
  const std::vector<Owned<X509_CRL>> lists = ReadLists(crl);
  if (lists.empty()) return absl::InvalidArgumentError("tls.crlFile: it holds no revocation list in PEM");
  const std::vector<Owned<X509>> authorities = ReadCertificates(ca);
  Revocations found;
  for (const Owned<X509_CRL>& list : lists) {
    const bool is_signed =
        std::any_of(authorities.begin(), authorities.end(), [&](const Owned<X509>& authority) {
          return X509_NAME_cmp(X509_get_subject_name(authority.get()), X509_CRL_get_issuer(list.get())) ==
                     0 &&
                 X509_CRL_verify(list.get(), X509_get0_pubkey(authority.get())) == 1;
        });
    ERR_clear_error();
    if (!is_signed)
      return absl::InvalidArgumentError("tls.crlFile: none of the authorities in tls.ca has signed it");
    const int64_t next = SecondsOf(X509_CRL_get0_nextUpdate(list.get()));
    if (next != 0 && (found.next_update == 0 || next < found.next_update)) found.next_update = next;
  }
  return found;
}

}  // namespace sluice::tls
