#pragma once

#include <functional>
#include <memory>
#include <string>

#include "api/prefetch_backend.h"
#include "node/chunk_source.h"
#include "node/daemon/image_preparer.h"

namespace sluice {

// What the credentials of a hint have become. They are wiped with the last who holds it: the hint until it is
// over, and what is under way for it then, until that has ended.
struct HintLogin {
  Grant grant;                              // by which chunks are asked for
  std::unique_ptr<ImagePreparer> preparer;  // asks by it
};

// Logs in for what that reference names, as ImagePreparer::Check wrote it. Asks nobody; does not block.
using LogIn = std::function<std::shared_ptr<const HintLogin>(const std::string& reference,
                                                             const api::HintCredentials& credentials)>;

}  // namespace sluice
