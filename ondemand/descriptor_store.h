#pragma once

#include <string_view>

#include "ondemand/keeper/descriptor.h"

namespace sluice::ondemand {

// Keeps descriptors for the time when neither a keeper nor a daemon lives, so that the kernel goes on to wait
// for answers: the service manager's, usually. Used by one thread at a time.
class DescriptorStore {
 public:
  virtual ~DescriptorStore() = default;

  // What was kept under the name when this process started, once; invalid if nothing was.
  virtual keeper::Descriptor Take(std::string_view name) = 0;
  // The same, borrowed; -1 if there is none, or it was taken.
  virtual int Peek(std::string_view name) const = 0;
  // Of one name at most one is to be kept. The caller's descriptor stays its own.
  virtual void Keep(std::string_view name, int fd) = 0;
  // Lets go of all that is kept. When it returns they are being closed.
  virtual void Clear() = 0;
};

}  // namespace sluice::ondemand
