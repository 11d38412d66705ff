#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ondemand/keeper/descriptor.h"

// Asks a keeper of another version of sluice to become one of ours, under its mounts: the daemon's side of
// keeper/replacement.h. Calls block for at most the socket's time limits.
namespace sluice::ondemand {

// Duplicates of what a successor needs, if the keeper dies on the way.
struct KeeperEstate {
  keeper::Descriptor journal;
  keeper::Descriptor completions;
  keeper::Descriptor requests;
  keeper::Descriptor tree;
};

// `socket` is a connection to the keeper on which nothing was said yet. Errors: FailedPrecondition (it can't:
// a daemon is attached to it, or its journal is of another layout; in its own words), Unavailable (it does
// not know the question, or does not answer).
absl::StatusOr<KeeperEstate> AskForReplacement(int socket);
// On the same connection: it becomes what the program makes. OK once it has begun; its sockets are made anew
// then. Errors: FailedPrecondition (it stays what it is, and says why), Unavailable (it does not say).
absl::Status ReplaceKeeper(int socket, const std::string& program);

}  // namespace sluice::ondemand
