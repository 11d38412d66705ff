#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>

#include "ondemand/keeper/descriptor.h"
#include "ondemand/keeper/result.h"

namespace sluice::keeper {

// Does what may have to wait in the kernel where it can't be killed in a process of its own. A mount waits
// for an answer of the keeper's: a keeper that is killed meanwhile must be able to die, so that its successor
// gives the answer. A path may lead through a file system of others that does not answer any more.
class MountingProcess {
 public:
  struct Limits {
    std::span<const int> keep;      // what `make` uses of the keeper's descriptors; the others are closed
    std::span<const int> abort_on;  // gives up when one of these is readable or hung up
    int64_t timeout_ms = 0;
  };

  MountingProcess() = default;
  // Ends the process, if it can be ended yet; else leaves it behind.
  ~MountingProcess();
  MountingProcess(const MountingProcess&) = delete;
  MountingProcess& operator=(const MountingProcess&) = delete;

  // What `make` returns there. It must not touch what another thread of the keeper's may be changing. Errors:
  // those of `make`; ETIMEDOUT, ECANCELED. REQUIRES: called once
  Result<Descriptor> Run(const std::function<Result<Descriptor>()>& make, const Limits& limits);
  // The same of what gives no descriptor.
  Outcome RunOutcome(const std::function<Outcome()>& work, const Limits& limits);

 private:
  pid_t pid_ = -1;
};

}  // namespace sluice::keeper
