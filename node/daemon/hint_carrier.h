#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "api/prefetch_backend.h"

namespace sluice {

// Port: tells other nodes of hints.
//
// Thread-safe; must not block.
class HintCarrier {
 public:
  virtual ~HintCarrier() = default;

  enum class Who { kSelf, kMember, kStranger };
  virtual Who WhoIs(const std::string& name) const = 0;
  // Whether nobody else can listen to what members are told: only then may it be credentials.
  virtual bool KeepsSecrets() const = 0;

  // Tells each of the members, in the background, and the spec's credentials with it. `on_told` comes once
  // for each, on any thread, and not before this returns: OK if it has taken the hint or knew it. Errors:
  // Unavailable and DeadlineExceeded (it has not answered), NotFound (it is no member any more),
  // ResourceExhausted (too many are to be told), and what it said.
  using OnTold = std::function<void(const std::string& member, const absl::Status&)>;
  virtual void Carry(const api::HintSpec& spec, std::vector<std::string> members, OnTold on_told) = 0;
  // The same of the end of a hint that they have taken: OK if it has ended there. NotFound: that member does
  // not know it; who is no member is Unavailable.
  virtual void Recall(const std::string& id, std::vector<std::string> members, OnTold on_told) = 0;
};

}  // namespace sluice
