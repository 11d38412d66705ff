#include "tests/integration/token_server.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "absl/strings/escaping.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "p2p/registry/token_scope.h"

namespace sluice::p2p {
namespace {

constexpr char kService[] = "fixture";
constexpr char kIssuer[] = "issuer";
constexpr int kLifetimeSeconds = 300;

std::string Web64(const std::string& bytes) {
  std::string text = absl::WebSafeBase64Escape(bytes);
  while (text.ends_with('=')) text.pop_back();
  return text;
}

std::string Unescaped(std::string text) {
  return absl::StrReplaceAll(text, {{"%3A", ":"}, {"%2F", "/"}, {"%2C", ","}});
}

}  // namespace

// Source: distribution specification, "Token Authentication Implementation": a JWT, RS256, with the
// certificate in its header.
class TokenServer::Signer {
 public:
  Signer() : key_(EVP_RSA_gen(2048)), certificate_(X509_new()) {
    X509_set_version(certificate_, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), 3600);
    X509_set_pubkey(certificate_, key_);
    X509_NAME* const name = X509_get_subject_name(certificate_);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(kIssuer), -1,
                               -1, 0);
    X509_set_issuer_name(certificate_, name);
    if (X509_sign(certificate_, key_, EVP_sha256()) <= 0) throw std::runtime_error("token server: X509_sign");
    std::string directory = (std::filesystem::temp_directory_path() / "sluice-tokens-XXXXXX").string();
    directory_ = ::mkdtemp(directory.data());
    FILE* const out = std::fopen(file().c_str(), "w");
    if (out == nullptr || PEM_write_X509(out, certificate_) != 1)
      throw std::runtime_error("token server: PEM");
    std::fclose(out);
  }
  ~Signer() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  std::string file() const { return directory_ / "ca.pem"; }

  std::string Sign(const nlohmann::json& claims) const {
    std::string der(static_cast<size_t>(i2d_X509(certificate_, nullptr)), '\0');
    auto* end = reinterpret_cast<unsigned char*>(der.data());
    i2d_X509(certificate_, &end);
    const nlohmann::json head = {{"typ", "JWT"}, {"alg", "RS256"}, {"x5c", {absl::Base64Escape(der)}}};
    const std::string text = Web64(head.dump()) + "." + Web64(claims.dump());
    EVP_MD_CTX* const context = EVP_MD_CTX_new();
    EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key_);
    std::string signature(static_cast<size_t>(EVP_PKEY_get_size(key_)), '\0');
    size_t size = signature.size();
    EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size,
                   reinterpret_cast<const unsigned char*>(text.data()), text.size());
    EVP_MD_CTX_free(context);
    signature.resize(size);
    return text + "." + Web64(signature);
  }

 private:
  EVP_PKEY* const key_;
  X509* const certificate_;
  std::filesystem::path directory_;
};

TokenServer::TokenServer(const RegistryFixture::Login& login)
    : login_(login), signer_(std::make_unique<Signer>()) {
  origin_.Always("/token", [this](const FaultRequest& request, FaultConnection& connection) {
    Serve(request, connection);
  });
}

TokenServer::~TokenServer() = default;

RegistryFixture::TokenAuth TokenServer::auth() const {
  return {origin_.Url("/token"), kService, kIssuer, signer_->file()};
}

void TokenServer::Serve(const FaultRequest& request, FaultConnection& connection) const {
  const std::string shown = request.Header("authorization");
  const bool known = shown == "Basic " + absl::Base64Escape(login_.username + ":" + login_.password);
  if (!known && !shown.empty()) return connection.Send(401, {}, "");
  nlohmann::json access = nlohmann::json::array();
  for (const absl::string_view parameter : absl::StrSplit(request.query, '&')) {
    if (!absl::StartsWith(parameter, "scope=")) continue;
    const std::vector<std::string> parts = absl::StrSplit(Unescaped(std::string(parameter.substr(6))), ':');
    if (parts.size() != 3) return connection.Send(400, {}, "");
    std::vector<std::string> actions = absl::StrSplit(parts[2], ',');
    if (!known) std::erase_if(actions, [&](const std::string& action) { return action != "pull"; });
    if (!known && !parts[1].starts_with("public/")) actions.clear();
    access.push_back({{"type", parts[0]}, {"name", parts[1]}, {"actions", actions}});
  }
  const std::time_t now = std::time(nullptr);
  const nlohmann::json claims = {{"iss", kIssuer},   {"sub", known ? login_.username : ""},
                                 {"aud", kService},  {"exp", now + kLifetimeSeconds},
                                 {"nbf", now - 60},  {"iat", now},
                                 {"jti", "fixture"}, {"access", access}};
  const nlohmann::json answer = {{"token", signer_->Sign(claims)}, {"expires_in", kLifetimeSeconds}};
  connection.Send(200, {{"Content-Type", "application/json"}}, answer.dump());
}

}  // namespace sluice::p2p
