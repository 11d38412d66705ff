#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>

#include "api/prefetch_backend.h"

namespace sluice {

// A hint that is not over, as the next daemon, or another node, must find it.
struct JournalledHint {
  api::HintSpec spec;  // the reference is canonical
  std::chrono::system_clock::time_point taken;
  // It had some, and can't go on without: then only its id, its reference, and who gave it are kept of it.
  bool had_credentials = false;
};

// Without the credentials.
nlohmann::json ToJson(const JournalledHint& hint);

// Throws std::exception with what is wrong: it is none, or one that no client could have given.
JournalledHint HintFrom(const nlohmann::json& in);

}  // namespace sluice
