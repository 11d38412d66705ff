#pragma once

#include <nlohmann/json_fwd.hpp>

namespace sluice {

// Ties a small file of the data directory to what it says: a copy of it, put back at another moment, can be
// told from the file that was written. See index::FileIdentity.

// Gives an open file a new mark and returns what is to be written into it. What the file system does not keep
// is left out.
nlohmann::json StampOf(int fd);

// Whether the open file is the one that was given this stamp. One that says nothing, as those of earlier
// versions, is taken for it.
bool HasStamp(int fd, const nlohmann::json& stamp);

}  // namespace sluice
