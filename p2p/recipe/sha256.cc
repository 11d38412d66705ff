#include "p2p/recipe/sha256.h"

#include <openssl/evp.h>

#include <cstdlib>

namespace sluice::p2p {
namespace {

// SHA-256 in memory fails only when OpenSSL itself is unusable; then no byte can be trusted any more.
void Require(int ok) {
  if (ok != 1) std::abort();
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Require(EVP_DigestInit_ex2(context_.get(), EVP_sha256(), nullptr));
}

void Sha256::Update(std::span<const std::byte> bytes) {
  Require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

Digest Sha256::Finish() {
  std::array<uint8_t, Digest::kBytes> bytes;
  Require(EVP_DigestFinal_ex(context_.get(), bytes.data(), nullptr));
  // Without an algorithm the context keeps the one it has; naming it would look it up again for each leaf.
  Require(EVP_DigestInit_ex2(context_.get(), nullptr, nullptr));
  return Digest(bytes);
}

Digest Sha256::Of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

}  // namespace sluice::p2p
