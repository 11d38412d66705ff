#pragma once

#include <string>

#include "tests/unit/image/image_builder.h"

namespace sluice {

// Holds everything that can be seen of a mounted image against the tree that it was made of: names, kinds,
// attributes, extended attributes, which names are one file, contents.
void ExpectMountedTree(const BuiltImage& image, const std::string& mount_point);

}  // namespace sluice
