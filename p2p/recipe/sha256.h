#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "node/digest.h"

struct evp_md_ctx_st;

namespace sluice::p2p {

// SHA-256 of a stream of bytes. Movable; one thread at a time.
class Sha256 {
 public:
  Sha256();

  void Update(std::span<const std::byte> bytes);
  // The digest of all that was given since the start or the last Finish; begins anew.
  Digest Finish();

  static Digest Of(std::span<const std::byte> bytes);
  static Digest Of(std::string_view bytes) { return Of(std::as_bytes(std::span(bytes))); }

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace sluice::p2p
