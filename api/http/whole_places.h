#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "node/digest.h"
#include "node/executor.h"

namespace sluice::api {

// Port: how many are sent one whole blob at once, and whom the others may ask in this node's place.
// Implemented by the daemon.
//
// Thread-safe; does not block.
class WholePlaces {
 public:
  struct Asker {
    std::string name;                // the member's, as it says itself
    std::vector<std::string> tried;  // helpers that were of no use to it
    bool is_help = false;            // another node has named this one to it
  };
  struct Place {
    std::shared_ptr<const void> sending;  // held until it was sent, or will not be
    Task on_taken;                        // to be run when the asker has got all of it
  };
  struct Busy {
    Duration retry;                    // when to come again
    std::vector<std::string> helpers;  // members that have it, or are receiving it
  };

  virtual ~WholePlaces() = default;

  // `form` names what is sent, in the form in which it is.
  virtual std::variant<Busy, Place> Ask(const Digest& form, const Asker& asker) = 0;
};

}  // namespace sluice::api
