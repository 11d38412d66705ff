#pragma once

#include <string_view>

namespace sluice::p2p {

// Whether a layer of this media type is a tar archive, plain or compressed by gzip or zstd: OCI's and
// docker's types, those that must not be distributed ("foreign" for docker) too, for who has their bytes may
// read them. What it is compressed with is to be seen in the bytes; types are known to lie.
// Source: OCI image specification, media-types.md and layer.md; distribution, "Image Manifest V 2, Schema 2";
// docker's zstd types: BuildKit, util/compression.
bool IsTarLayer(std::string_view media_type);

}  // namespace sluice::p2p
