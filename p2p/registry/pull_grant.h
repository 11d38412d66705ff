#pragma once

#include <memory>
#include <string>
#include <utility>

#include "node/chunk_source.h"

namespace sluice::p2p {

// By whose right a registry is asked on behalf of another node; a null Grant is this node's own right.
// Source: PEERS.md, "Public and private".
//
// Constant. What is asked by it holds it, and nothing else keeps the token.
class PullGrant final : public AskerGrant {
 public:
  // What strangers get, and what a registry gives to this node's password if passwords are all that it knows
  // (Basic): those are never handed on, so nobody else could show one. Always the same.
  static Grant OfStranger() {
    static const Grant kStranger = std::make_shared<PullGrant>(std::string());
    return kStranger;
  }
  // What the registry gives to whoever has the token. REQUIRES: !token.empty()
  static Grant OfToken(std::string token) { return std::make_shared<PullGrant>(std::move(token)); }

  // Of what these two made.
  static bool IsStrangers(const Grant& grant) { return grant && TokenOf(grant).empty(); }
  static bool IsToken(const Grant& grant) { return grant && !TokenOf(grant).empty(); }
  // REQUIRES: grant
  static const std::string& TokenOf(const Grant& grant) {
    return static_cast<const PullGrant&>(*grant).token_;
  }

  explicit PullGrant(std::string token) : token_(std::move(token)) {}

 private:
  const std::string token_;  // empty: a stranger's
};

}  // namespace sluice::p2p
