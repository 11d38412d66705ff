#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "node/digest.h"
#include "node/image/blob_compressor.h"
#include "p2p/recipe/recipe.h"
#include "p2p/registry/manifest.h"

namespace sluice {

// How the blobs of a lazy image stand in its manifest. Names follow the draft EROFS image specification.

p2p::Descriptor Describe(std::string_view type, const Digest& digest, uint64_t size);
void Annotate(p2p::Descriptor& descriptor, std::string_view name, std::string value);

// A data blob that is sent as it is. `source_diff_id`: of the layer that it was made of, if it was one.
p2p::Descriptor DescribeBlob(const p2p::Recipe& recipe, const std::optional<Digest>& source_diff_id);
// Turns the descriptor of plain bytes into that of what they are compressed to.
void DescribeCompressed(p2p::Descriptor& descriptor, const Digest& digest, uint64_t size);
// The value of annotation::kSeekTable, for a table at the file's end.
std::string PlaceOfSeekTable(const CompressedFile& file, const std::string& table);

}  // namespace sluice
