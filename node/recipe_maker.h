#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "node/digest.h"

namespace sluice {

// Port: makes the recipe of a blob that this node has whole, while it hashes it. Implemented by p2p/ (BEP
// 52).
//
// For one blob and one thread.
class RecipeMaker {
 public:
  virtual ~RecipeMaker() = default;

  // The next bytes of the blob, in pieces of any size.
  virtual void Update(std::span<const std::byte> bytes) = 0;

  struct Made {
    Digest root;
    std::string recipe;  // as a RecipeStore keeps it
  };
  // Of all bytes given; then it must not be used again. Errors: InvalidArgument (none were, or too many).
  virtual absl::StatusOr<Made> Finish() = 0;
};

// For a blob of that chunk size.
using MakeRecipe = std::function<std::unique_ptr<RecipeMaker>(uint32_t chunk_size)>;

}  // namespace sluice
