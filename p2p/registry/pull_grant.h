#pragma once

#include <memory>
#include <string>
#include <utility>

#include "node/chunk_source.h"
#include "p2p/registry/authorizer.h"

namespace sluice::p2p {

// By whose right a registry is asked on behalf of somebody else; a null Grant is this node's own right.
// Source: PEERS.md, "Public and private".
//
// Constant. What is asked by it holds it, and nothing else keeps the token.
class PullGrant final : public AskerGrant {
 public:
  // What strangers get, and what a registry gives to this node's password if passwords are all that it knows
  // (Basic): those are never handed on, so nobody else could show one. Always the same.
  static Grant OfStranger() {
    static const Grant kStranger = std::make_shared<PullGrant>(std::string(), nullptr);
    return kStranger;
  }
  // What the registry gives to whoever has the token, which other nodes are shown, too, or the registry
  // alone. REQUIRES: !token.empty()
  enum class Shown { kToMembers, kToRegistry };
  static Grant OfToken(std::string token, Shown shown = Shown::kToMembers) {
    return std::make_shared<PullGrant>(std::move(token), nullptr, shown);
  }
  // What the registry gives to credentials that somebody has handed over for one purpose: `authorizer` knows
  // them alone, and what it gets by them is for that purpose. No other node is shown anything of it.
  // REQUIRES: authorizer
  static Grant OfCredentials(std::shared_ptr<Authorizer> authorizer) {
    return std::make_shared<PullGrant>(std::string(), std::move(authorizer));
  }

  // Of what these made.
  static bool IsStrangers(const Grant& grant) {
    return grant && TokenOf(grant).empty() && !IsCredentials(grant);
  }
  static bool IsToken(const Grant& grant) { return grant && !TokenOf(grant).empty(); }
  static bool IsCredentials(const Grant& grant) { return grant && AuthorizerOf(grant) != nullptr; }
  // What the registry is shown; empty but of a token. REQUIRES: grant
  static const std::string& TokenOf(const Grant& grant) {
    return static_cast<const PullGrant&>(*grant).token_;
  }
  // What another node may be shown; empty: nothing. REQUIRES: grant
  static std::string TokenForMembers(const Grant& grant) {
    const auto& pull = static_cast<const PullGrant&>(*grant);
    return pull.shown_ == Shown::kToMembers ? pull.token_ : std::string();
  }
  // Null but of credentials. REQUIRES: grant
  static Authorizer* AuthorizerOf(const Grant& grant) {
    return static_cast<const PullGrant&>(*grant).authorizer_.get();
  }

  PullGrant(std::string token, std::shared_ptr<Authorizer> authorizer, Shown shown = Shown::kToMembers)
      : token_(std::move(token)), authorizer_(std::move(authorizer)), shown_(shown) {}

 private:
  const std::string token_;
  const std::shared_ptr<Authorizer> authorizer_;
  const Shown shown_;
};

}  // namespace sluice::p2p
