#pragma once

#include <cstdint>
#include <memory>

#include "node/recipe_maker.h"

namespace sluice::p2p {

// Makes BEP 52 recipes. Thread-safe; what it returns is not.
std::unique_ptr<RecipeMaker> NewRecipeMaker(uint32_t chunk_size);

}  // namespace sluice::p2p
